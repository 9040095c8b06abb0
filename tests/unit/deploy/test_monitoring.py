"""The alert rules, their runbook and their dashboards agree with each other and with `chats status`."""

import re
import shutil
import subprocess
from pathlib import Path

import promql_parser
import pytest

from deploy.commands import status
from services.conversations.emails import progress
from services.conversations.event_log import reader, retention, sequencer
from services.conversations.reports import facts
from services.conversations.search import indexer
from services.conversations.webhooks import log_reader
from services.notifications import metrics
from shared.database.clock_skew import MAX_SKEW
from tests.helpers.monitoring import MONITORING, alert_rules, dashboards, expressions, read_yaml, scrape_jobs, selectors
from tests.system.helpers.product import PROCESSES

PROMTOOL = shutil.which("promtool")
RUNBOOK = Path(__file__).parents[3] / "docs" / "runbook.md"
THRESHOLDS = {
    "ChatsRelayLate": sequencer.LATE,
    "ChatsInboxLate": reader.LATE,
    "ChatsEmailsLate": metrics.LATE,
    "ChatsErasureStalled": status.LATE_ERASURE,
    "ChatsSearchLate": indexer.LATE,
    "ChatsReportsLate": facts.LATE,
    "ChatsEmailStatusLate": progress.LATE,
    "ChatsWebhooksLate": log_reader.LATE,
    "ChatsLogKeptTooLong": retention.LATE_PURGE * status.DAY,
    "ChatsClockSkew": MAX_SKEW,
}


def test_each_alert_has_a_section_of_the_runbook_and_each_section_an_alert() -> None:
    sections = re.findall(r"^## (Chats\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == list(alert_rules())


@pytest.mark.parametrize("name", alert_rules())
def test_an_alert_links_its_section_waits_longer_than_a_restart_and_says_how_urgent_it_is(name: str) -> None:
    rule = alert_rules()[name]
    link = f"{{{{ $externalLabels.chats_docs }}}}docs/runbook.md#{name.lower()}"
    assert rule["annotations"]["runbook_url"] == link
    assert rule["annotations"]["summary"]
    assert promql_parser.parse_duration(rule["for"]) >= promql_parser.parse_duration("2m")
    assert rule["labels"]["severity"] in {"critical", "warning"}


@pytest.mark.parametrize("name", THRESHOLDS)
def test_an_alert_has_the_threshold_of_chats_status(name: str) -> None:
    numbers: list[float] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.NumberLiteral):
            numbers.append(node.val)

    promql_parser.walk(expressions()[name], visit)
    assert set(numbers) - {0} == {THRESHOLDS[name]}


def test_rules_and_dashboards_name_the_jobs_of_the_example_which_scrapes_every_process() -> None:
    assert scrape_jobs() == {f"chats-{process}" for process in PROCESSES}
    used = [
        matcher.value
        for expression in expressions().values()
        for selector in selectors(expression)
        for matcher in selector.matchers.matchers
        if matcher.name == "job"
    ]
    assert set(used) - {"chats-.+"} == scrape_jobs()


def test_each_alert_is_tested_to_fire_and_not_to_fire() -> None:
    cases = [case for test in read_yaml("alerts_test.yml")["tests"] for case in test["alert_rule_test"]]
    for fires in (True, False):
        assert {case["alertname"] for case in cases if ("exp_alerts" in case) is fires} == set(alert_rules())


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool: apt-get install prometheus")
@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")], ids=" ".join
)
def test_promtool_accepts_the_configuration_and_the_rules_pass_their_tests(arguments: tuple[str, ...]) -> None:
    command = (str(PROMTOOL), *arguments)
    run = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert run.returncode == 0, run.stdout + run.stderr


def test_each_panel_has_a_unit_a_description_and_the_chosen_data_source() -> None:
    for dashboard in dashboards():
        [variable] = dashboard["templating"]["list"]
        assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
        panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        for panel in [*panels, *dashboard["annotations"]["list"]]:
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for panel in panels:
            assert panel["description"], panel["title"]
            assert panel["type"] == "state-timeline" or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
