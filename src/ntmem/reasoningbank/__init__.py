"""What agents saw, did and expected, what came of it, how good that was, and what is to be learnt from it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .bank import ReasoningBank
from .calibration import CalibrationReport, calibrate
from .events import Past
from .judges import RelativeErrorJudge, ScaledJudge
from .memory import ReasoningMemory
from .patterns import DistilledPattern, Item, RecalledPattern, Rewrite
from .tracker import PendingOutcome, TrajectoryPage, TrajectoryTracker
from .trajectory import Action, Observation, Outcome, Trajectory
from .verdict import Case, Judge, Pair, Verdict, VerdictResult

if TYPE_CHECKING:  # else by __getattr__ below
    from .consolidation import ConsolidationReport
    from .contrast import ActionContrast, AttemptOutcome, MattsContrast
    from .distiller import Distiller
    from .explaining import Explanation, Used
    from .learning import Settings
    from .matts import Attempt, MattsRun
    from .recall import Choice, Option
    from .report import BankReport
    from .taking import BankExport, BankImport

__all__ = [
    "Action",
    "ActionContrast",
    "Attempt",
    "AttemptOutcome",
    "BankExport",
    "BankImport",
    "BankReport",
    "CalibrationReport",
    "Case",
    "Choice",
    "ConsolidationReport",
    "DistilledPattern",
    "Distiller",
    "Explanation",
    "Item",
    "Judge",
    "MattsContrast",
    "MattsRun",
    "Observation",
    "Option",
    "Outcome",
    "Pair",
    "Past",
    "PendingOutcome",
    "ReasoningBank",
    "ReasoningMemory",
    "RecalledPattern",
    "RelativeErrorJudge",
    "Rewrite",
    "ScaledJudge",
    "Settings",
    "Trajectory",
    "TrajectoryPage",
    "TrajectoryTracker",
    "Used",
    "Verdict",
    "VerdictResult",
    "calibrate",
]

_LATER = {  # what needs numpy
    **dict.fromkeys(("Choice", "Option"), "recall"),
    **dict.fromkeys(("Explanation", "Used"), "explaining"),
    **dict.fromkeys(("BankExport", "BankImport"), "taking"),
    "BankReport": "report",
    "ConsolidationReport": "consolidation",
    "Distiller": "distiller",
    "Settings": "learning",
    **dict.fromkeys(("ActionContrast", "AttemptOutcome", "MattsContrast"), "contrast"),
    **dict.fromkeys(("Attempt", "MattsRun"), "matts"),
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
