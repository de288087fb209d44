"""Every nucleus of a whole H&E slide, once and in the right place.  Research use only.

The names in `__all__` are the public ones.  They are loaded when first used, so that
reading results never waits for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsiseg.answers.cohort import Answer, cohort_stats
    from wsiseg.answers.comparison import compare_groups
    from wsiseg.answers.densest import densest_squares
    from wsiseg.answers.each_run import ask_each
    from wsiseg.answers.mixing import class_mixing
    from wsiseg.answers.queries import Query, open_query, query
    from wsiseg.answers.stats import region_stats, slide_stats
    from wsiseg.answers.table_files import write_table
    from wsiseg.answers.within import region_shape, region_warnings, stats_within
    from wsiseg.api import ComputeOptions, segment
    from wsiseg.batches import Done, Failed
    from wsiseg.classes.classification import Classification, ClassifyOptions, classify
    from wsiseg.demo import run_demo
    from wsiseg.doctor import run_checks
    from wsiseg.dry_run import SlideEstimate, estimate_many
    from wsiseg.errors import WsisegError
    from wsiseg.evaluation.evaluation import Evaluation
    from wsiseg.evaluation.judging import evaluate
    from wsiseg.evaluation.perturb import PerturbOptions
    from wsiseg.evaluation.records import EvaluateOptions
    from wsiseg.exporting import export_runs, list_formats
    from wsiseg.labels.options import LabelOptions
    from wsiseg.labels.reading import read_label_sets
    from wsiseg.labels.records import LabelledImage, LabelSet, LabelSets
    from wsiseg.listing import SlideEntry, list_slides
    from wsiseg.many import segment_many
    from wsiseg.models import list_models, load_model
    from wsiseg.models.description import describe_model, model_rows
    from wsiseg.parts import Part, parse_part
    from wsiseg.plan import PlanOptions
    from wsiseg.regions import Region, read_regions
    from wsiseg.reports import Citation, WrittenReport, cite, write_report
    from wsiseg.results import Result, find_results, open_result
    from wsiseg.review import Review, ReviewOptions, ReviewSample, make_review, read_review
    from wsiseg.scale import ScaleOptions
    from wsiseg.seam_check import SeamCheckOptions, SeamReport, seamcheck
    from wsiseg.slides import Slide, SlideInfo, open_slide
    from wsiseg.status import BatchStatus, batch_status
    from wsiseg.tissue import TissueOptions
    from wsiseg.training.finish import TrainedModel
    from wsiseg.training.options import TrainRunOptions
    from wsiseg.training.run import train

__all__ = [
    "Answer",
    "BatchStatus",
    "Citation",
    "Classification",
    "ClassifyOptions",
    "ComputeOptions",
    "Done",
    "EvaluateOptions",
    "Evaluation",
    "Failed",
    "LabelOptions",
    "LabelSet",
    "LabelSets",
    "LabelledImage",
    "Part",
    "PerturbOptions",
    "PlanOptions",
    "Query",
    "Region",
    "Result",
    "Review",
    "ReviewOptions",
    "ReviewSample",
    "ScaleOptions",
    "SeamCheckOptions",
    "SeamReport",
    "Slide",
    "SlideEntry",
    "SlideEstimate",
    "SlideInfo",
    "TissueOptions",
    "TrainRunOptions",
    "TrainedModel",
    "WrittenReport",
    "WsisegError",
    "ask_each",
    "batch_status",
    "cite",
    "class_mixing",
    "classify",
    "cohort_stats",
    "compare_groups",
    "densest_squares",
    "describe_model",
    "estimate_many",
    "evaluate",
    "export_runs",
    "find_results",
    "list_formats",
    "list_models",
    "list_slides",
    "load_model",
    "make_review",
    "model_rows",
    "open_query",
    "open_result",
    "open_slide",
    "parse_part",
    "query",
    "read_label_sets",
    "read_regions",
    "read_review",
    "region_shape",
    "region_stats",
    "region_warnings",
    "run_checks",
    "run_demo",
    "seamcheck",
    "segment",
    "segment_many",
    "slide_stats",
    "stats_within",
    "train",
    "write_report",
    "write_table",
]

_HOME = {
    "Answer": "answers.cohort",
    "BatchStatus": "status",
    "Citation": "reports",
    "Classification": "classes.classification",
    "ClassifyOptions": "classes.classification",
    "ComputeOptions": "api",
    "Done": "batches",
    "EvaluateOptions": "evaluation.records",
    "Evaluation": "evaluation.evaluation",
    "Failed": "batches",
    "LabelOptions": "labels.options",
    "LabelSet": "labels.records",
    "LabelSets": "labels.records",
    "LabelledImage": "labels.records",
    "Part": "parts",
    "PerturbOptions": "evaluation.perturb",
    "PlanOptions": "plan",
    "Query": "answers.queries",
    "Region": "regions",
    "Result": "results",
    "Review": "review",
    "ReviewOptions": "review",
    "ReviewSample": "review",
    "ScaleOptions": "scale",
    "SeamCheckOptions": "seam_check",
    "SeamReport": "seam_check",
    "Slide": "slides",
    "SlideEntry": "listing",
    "SlideEstimate": "dry_run",
    "SlideInfo": "slides",
    "TissueOptions": "tissue",
    "TrainRunOptions": "training.options",
    "TrainedModel": "training.finish",
    "WrittenReport": "reports",
    "WsisegError": "errors",
    "ask_each": "answers.each_run",
    "batch_status": "status",
    "cite": "reports",
    "class_mixing": "answers.mixing",
    "classify": "classes.classification",
    "cohort_stats": "answers.cohort",
    "compare_groups": "answers.comparison",
    "densest_squares": "answers.densest",
    "describe_model": "models.description",
    "estimate_many": "dry_run",
    "evaluate": "evaluation.judging",
    "export_runs": "exporting",
    "find_results": "results",
    "list_formats": "exporting",
    "list_models": "models",
    "list_slides": "listing",
    "load_model": "models",
    "make_review": "review",
    "model_rows": "models.description",
    "open_query": "answers.queries",
    "open_result": "results",
    "open_slide": "slides",
    "parse_part": "parts",
    "query": "answers.queries",
    "read_label_sets": "labels.reading",
    "read_regions": "regions",
    "read_review": "review",
    "region_shape": "answers.within",
    "region_stats": "answers.stats",
    "region_warnings": "answers.within",
    "run_checks": "doctor",
    "run_demo": "demo",
    "seamcheck": "seam_check",
    "segment": "api",
    "segment_many": "many",
    "slide_stats": "answers.stats",
    "stats_within": "answers.within",
    "train": "training.run",
    "write_report": "reports",
    "write_table": "answers.table_files",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'wsiseg' has no attribute {name!r}")
    value = getattr(import_module(f"wsiseg.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
