"""Great Expectations' own page on a validation, its Data Docs, made of what all blocks together found.

The page takes its style from the network when it is opened; `validation.html` says the same and needs none.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tasks.suites import Rule
from tasks.validation import expectation, located


def page(kind: str, rules: Sequence[Rule], report: Mapping[str, Any]) -> str:
    """The HTML of one kind of file; `report` is a Judge's, in the order of its `rules`."""
    from great_expectations import __version__
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    results = [_result(rule, entry) for rule, entry in zip(rules, report["expectations"], strict=True)]
    met = sum(result.success for result in results)
    run = {"run_name": kind, "run_time": datetime.now(UTC).isoformat()}
    whole = ExpectationSuiteValidationResult(
        success=report["success"],
        results=results,
        suite_name=kind,
        statistics={
            "evaluated_expectations": len(results), "successful_expectations": met,
            "unsuccessful_expectations": len(results) - met, "success_percent": 100 * met / len(results),
        },
        meta={
            "great_expectations_version": __version__, "run_id": run, "batch_spec": {}, "batch_markers": {},
            "active_batch_definition": {},
        },
    )  # fmt: skip
    return DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(whole))


def _result(rule: Rule, entry: Mapping[str, Any]) -> Any:
    from great_expectations.core import ExpectationValidationResult

    return ExpectationValidationResult(
        success=entry["success"],
        expectation_config=expectation(rule, 0).configuration,
        result={
            "element_count": entry["applicable"],
            "unexpected_count": entry["failed"],
            "unexpected_percent": 100 * entry["share"],
            "partial_unexpected_list": [located(example) for example in entry["examples"]],
            "observed_value": entry["observed"],
        },
        exception_info={"raised_exception": False, "exception_message": None, "exception_traceback": None},
    )
