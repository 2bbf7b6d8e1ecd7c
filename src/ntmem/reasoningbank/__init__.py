"""What agents saw, did and expected, what came of it, and how good that was."""

from .bank import ReasoningBank
from .calibration import CalibrationReport, calibrate
from .consolidation import ConsolidationReport
from .distiller import Distiller
from .events import Past
from .explaining import Explanation, Used
from .judges import RelativeErrorJudge, ScaledJudge
from .learning import Settings
from .patterns import DistilledPattern, Item, RecalledPattern, Rewrite
from .recall import Choice, Option
from .tracker import PendingOutcome, TrajectoryPage, TrajectoryTracker
from .trajectory import Action, Observation, Outcome, Trajectory
from .verdict import Case, Judge, Pair, Verdict, VerdictResult

__all__ = [
    "Action",
    "CalibrationReport",
    "Case",
    "Choice",
    "ConsolidationReport",
    "DistilledPattern",
    "Distiller",
    "Explanation",
    "Item",
    "Judge",
    "Observation",
    "Option",
    "Outcome",
    "Pair",
    "Past",
    "PendingOutcome",
    "ReasoningBank",
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
