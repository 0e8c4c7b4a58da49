"""JUnit XML: a test case a run, each failure with the command that replays it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from xml.etree import ElementTree as Xml

from p2pe_sim.result import Result, Verdict

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd]")  # what XML 1.0 can't hold


def replay_command(result: Result) -> str:
    return f"p2pe-sim run {result.scenario} --seed {result.seed}"


def what_failed(result: Result) -> str:
    """A few lines: what was broken, where, when."""
    lines = [f"{each.invariant} at {each.at:.3f} s: {each.detail}" for each in result.broken]
    if result.problem:
        lines.append(result.problem.strip())
    return "\n".join(lines) or result.verdict.value


def junit(results: Sequence[Result], replay: Callable[[Result], str] = replay_command) -> str:
    """The XML text. Failures: BROKEN, VACUOUS and NONDETERMINISTIC; errors: ERROR; skipped: BUDGET."""
    root = Xml.Element("testsuites", name="p2pe-sim")
    for scenario in sorted({result.scenario for result in results}):
        of_it = [result for result in results if result.scenario == scenario]
        failed = [each for each in of_it if each.verdict not in (Verdict.PASSED, Verdict.ERROR, Verdict.BUDGET)]
        suite = Xml.SubElement(
            root,
            "testsuite",
            name=scenario,
            tests=str(len(of_it)),
            failures=str(len(failed)),
            errors=str(sum(each.verdict is Verdict.ERROR for each in of_it)),
            skipped=str(sum(each.verdict is Verdict.BUDGET for each in of_it)),
            time=f"{sum(each.real_seconds for each in of_it):.3f}",
        )
        for result in sorted(of_it, key=lambda each: each.seed):
            case = Xml.SubElement(
                suite,
                "testcase",
                classname=f"p2pe_sim.{scenario}",
                name=f"seed {result.seed}",
                time=f"{result.real_seconds:.3f}",
            )
            _failure(case, result, replay(result))
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def _failure(case: Xml.Element, result: Result, replay: str) -> None:
    if result.verdict is Verdict.PASSED:
        return
    tag = {Verdict.ERROR: "error", Verdict.BUDGET: "skipped"}.get(result.verdict, "failure")
    said = _UNPRINTABLE.sub("?", what_failed(result))
    failure = Xml.SubElement(case, tag, message=said.splitlines()[0][:300], type=result.verdict.value)
    failure.text = f"{said}\n\nreplay: {replay}\n"
    if result.verdict in (Verdict.BROKEN, Verdict.ERROR):
        failure.text += f"shrink: {re.sub(' (run|replay) ', ' shrink ', replay, count=1)}\n"
