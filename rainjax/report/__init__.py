"""Shows what a study measured: tables, figures and a verdict, as queries over its records.

Nothing here measures: whatever is shown comes from a study's folder. Figures and files need
matplotlib and jinja2, which `pip install "rainjax[report]"` brings.
"""

from rainjax.report._display import Display, Drawing
from rainjax.report.contrast import BlindAgainstAdaptive
from rainjax.report.curves import Curve
from rainjax.report.detection import RiskCoverageCurves, RocCurves, ScoreHistograms
from rainjax.report.detection_maps import DetectionOverRadius, DistortionMap
from rainjax.report.detection_tables import (
    CleanTable,
    DetectionSummary,
    DetectionTable,
    DistortionTable,
)
from rainjax.report.displays import default_displays
from rainjax.report.field_curve import FieldCurve
from rainjax.report.iterates import Iterates
from rainjax.report.ladders import LadderCurve
from rainjax.report.live import Chart, Line, Picture, Pictures
from rainjax.report.page import Report, report, summary, write_report
from rainjax.report.pictures import Gallery, Panels, Spectrum, Surfaces
from rainjax.report.queries import QueryCurve
from rainjax.report.readme import check_readme, readme_block, update_readme
from rainjax.report.results import Results
from rainjax.report.suspicious import MostSuspicious
from rainjax.report.tables import Cell, Table, as_markdown, as_plain
from rainjax.report.tabular import DrawsTable, Leaderboard, ResultsTable
from rainjax.report.text import Finding
from rainjax.report.transfer_matrix import TransferMatrix
from rainjax.report.verdict import verdict

__all__ = [
    "BlindAgainstAdaptive",
    "Cell",
    "Chart",
    "CleanTable",
    "Curve",
    "DetectionOverRadius",
    "DetectionSummary",
    "DetectionTable",
    "Display",
    "DistortionMap",
    "DistortionTable",
    "Drawing",
    "DrawsTable",
    "FieldCurve",
    "Finding",
    "Gallery",
    "Iterates",
    "LadderCurve",
    "Leaderboard",
    "Line",
    "MostSuspicious",
    "Panels",
    "Picture",
    "Pictures",
    "QueryCurve",
    "Report",
    "Results",
    "ResultsTable",
    "RiskCoverageCurves",
    "RocCurves",
    "ScoreHistograms",
    "Spectrum",
    "Surfaces",
    "Table",
    "TransferMatrix",
    "as_markdown",
    "as_plain",
    "check_readme",
    "default_displays",
    "readme_block",
    "report",
    "summary",
    "update_readme",
    "verdict",
    "write_report",
]
