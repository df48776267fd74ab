"""What the pages say of scenario files, made from the models that read them.

    python docs/faults_reference.py            # writes schemas/scenario.schema.json and faults.md
    python docs/faults_reference.py --check    # says which of them is not current, and fails

`PROOFS` names, file by file, the test that shows each kind's effect on messages. A kind without one
can be written and expanded, and the table says that no run applies it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from faults import KINDS, PROCESSES, catalog, load  # noqa: E402
from faults.schema import schema  # noqa: E402

PAGE = REPOSITORY / "docs" / "faults.md"
SCHEMA = REPOSITORY / "docs" / "schemas" / "scenario.schema.json"
PROOFS: Mapping[str, Mapping[str, str]] = {
    "tests/broker/test_crash.py": {
        "crash": "test_a_restart_calls_the_program_again_as_the_next_incarnation",
    },
    "tests/broker/test_troubles.py": {
        "stop": "test_a_stopped_program_cleans_up_says_goodbye_and_is_started_again",
        "pause": "test_nothing_happens_in_a_pause_and_all_that_came_due_happens_after_it",
        "skew": "test_sleeps_end_early_by_a_fast_clock_and_late_by_a_slow_one",
    },
    "tests/broker/test_node.py": {
        "slow": "test_a_slower_device_ends_later",
    },
    "tests/broker/network/test_routes.py": {
        "degrade": "test_a_slower_link_is_felt_at_once_and_its_end_too",
        "traffic": "test_background_traffic_takes_its_share_and_no_more",
    },
    "tests/broker/network/test_datagrams.py": {
        "loss": "test_losses_are_told_when_they_happen_and_a_fragment_loses_the_train",
        "corrupt": "test_a_damaged_one_arrives_as_such_and_is_no_message",
        "duplicate": "test_a_duplicate_is_a_second_fate_of_the_same_number",
        "reorder": "test_a_reordered_one_skips_the_delay",
    },
    "tests/broker/network/test_chance.py": {
        "burst_loss": "test_losses_have_the_mean_and_the_bursts_that_were_asked_for",
    },
    "tests/broker/network/test_transfers.py": {
        "partition": "test_a_partition_stalls_a_stream_until_the_doubled_timer_fires_after_it",
    },
}
SAME_AS = {
    "join": "leave",
    "flap": "cut",
    **dict.fromkeys(("loss", "burst_loss", "corrupt", "duplicate", "reorder"), "degrade"),
    "trace": "degrade, cut, leave",
}
WHERE = schema()["$defs"]["Cut"]["properties"]


def kinds() -> Iterator[str]:
    """The table of kinds of fault."""
    models = schema()["$defs"]
    proofs = {
        kind: f"{Path(file).name}::{test}"
        for file, tests in PROOFS.items()
        for kind, test in tests.items()
    }
    yield "| kind | what happens | settings | is a | shown by |"
    yield "|---|---|---|---|---|"
    for kind in KINDS:
        said = models["Fault"]["properties"][kind]
        test = f"`{proofs[kind]}`" if kind in proofs else "no run applies it yet"
        what, settings = _described(said, models)
        yield f"| `{kind}` | {what} | {settings} | {SAME_AS.get(kind, '')} | {test} |"


def processes() -> Iterator[str]:
    """The table of processes."""
    models = schema()["$defs"]
    yield "| process | what happens | settings |"
    yield "|---|---|---|"
    for kind in PROCESSES:
        what, settings = _described(models["Process"]["properties"][kind], models)
        yield f"| `{kind}` | {what} | {settings} |"


def scenarios() -> Iterator[str]:
    """The table of bundled scenarios."""
    yield "| scenario | |"
    yield "|---|---|"
    for name in catalog():
        yield f"| `{name}` | {load(name).description} |"


def _described(said: Mapping[str, Any], models: Mapping[str, Any]) -> tuple[str, str]:
    """What happens, and the settings with what each is."""
    if "$ref" not in said:
        return _page(said["description"]), "whom it strikes"
    model = models[said["$ref"].rpartition("/")[2]]
    what = _page(model["description"])
    rows = model if "properties" in model else model["anyOf"][-1]
    settings = ["*where*"] if WHERE.items() <= rows["properties"].items() else []
    for name, setting in rows["properties"].items():
        if settings and name in WHERE:
            continue
        needed = name in rows.get("required", ())
        default = setting.get("default")
        usual = f" ({_shown(default)})" if default not in (None, False) else ""
        text = f"`{name}`{'' if needed else '?'}: {_page(setting['description'])}{usual}"
        settings.append(text)
    return what, "; ".join(settings)


def _page(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def _shown(value: Any) -> str:
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def page() -> str:
    """The page with its tables as they should be."""
    text = PAGE.read_text(encoding="utf-8")
    for table in (kinds, processes, scenarios):
        name = table.__name__
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}<!-- {name} -->\n" + "\n".join(table()) + f"\n{end}{after}"
    return text


def files() -> dict[Path, str]:
    """What each file should hold."""
    return {SCHEMA: json.dumps(schema(), indent=1, ensure_ascii=False) + "\n", PAGE: page()}


def main() -> int:
    stale = [path for path, text in files().items()
             if not path.exists() or path.read_text(encoding="utf-8") != text]  # fmt: skip
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is not what the models say: run python docs/faults_reference.py")
        return 1 if stale else 0
    for path in stale:
        path.write_text(files()[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
