"""What agents saw, did and expected, what came of it, and how good that was."""

from .bank import ReasoningBank
from .calibration import CalibrationReport, calibrate
from .events import Past
from .judges import RelativeErrorJudge, ScaledJudge
from .tracker import PendingOutcome, TrajectoryPage, TrajectoryTracker
from .trajectory import Action, Observation, Outcome, Trajectory
from .verdict import Case, Judge, Pair, Verdict, VerdictResult

__all__ = [
    "Action",
    "CalibrationReport",
    "Case",
    "Judge",
    "Observation",
    "Outcome",
    "Pair",
    "Past",
    "PendingOutcome",
    "ReasoningBank",
    "RelativeErrorJudge",
    "ScaledJudge",
    "Trajectory",
    "TrajectoryPage",
    "TrajectoryTracker",
    "Verdict",
    "VerdictResult",
    "calibrate",
]
