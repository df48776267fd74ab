"""What the pages say of scenario files, made from the models that read them.

    python docs/faults_reference.py            # writes schemas/scenario.schema.json and faults.md
    python docs/faults_reference.py --check    # says which of them is not current, and fails

`PROOFS` names, file by file, the test that shows each kind's effect on messages.
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
    "tests/broker/test_faults.py": {
        "crash": "test_a_crashed_node_is_gone_and_comes_back_with_its_disk_and_nothing_else",
        "stop": "test_who_is_stopped_may_clean_up_and_is_started_again",
        "pause": "test_a_paused_node_answers_late_and_loses_nothing",
        "leave": "test_who_leaves_says_goodbye_and_then_is_gone_until_it_joins_again",
        "join": "test_who_joins_was_not_there_before",
        "slow": "test_four_times_slower_computes_four_times_as_long",
        "squeeze": "test_squeezed_memory_refuses_what_is_more_and_takes_nothing_that_is_held",
        "skew": "test_a_skewed_clock_is_ahead_and_runs_fast_until_it_is_right_again",
        "full_disk": "test_a_full_disk_can_be_read_and_deleted_from_and_not_be_written",
        "degrade": "test_a_tenth_of_the_bandwidth_makes_a_transfer_ten_times_as_long",
        "loss": "test_a_lossy_link_loses_its_share_of_datagrams_each_by_itself",
        "burst_loss": "test_a_burst_of_losses_takes_as_many_in_a_row_as_it_says",
        "corrupt": "test_a_damaged_datagram_is_no_message_and_a_stream_sends_it_again",
        "duplicate": "test_a_doubled_datagram_comes_twice_and_a_stream_once",
        "reorder": "test_a_reordered_datagram_overtakes_those_whose_delay_it_skips",
        "cut": "test_a_cut_link_carries_nothing_and_what_has_another_way_takes_it",
        "flap": "test_a_flapping_link_is_down_and_up_and_down",
        "partition": "test_a_one_way_partition_lets_the_other_way_through",
        "nat": "test_who_is_behind_a_nat_hears_only_those_whom_it_has_called",
        "traffic": "test_traffic_of_others_takes_its_rate_of_what_a_transfer_has",
        "trace": "test_a_recorded_bandwidth_is_what_a_link_has_at_most",
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
        what, settings = _described(said, models)
        yield f"| `{kind}` | {what} | {settings} | {SAME_AS.get(kind, '')} | `{proofs[kind]}` |"


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
    is_where = WHERE.items() <= rows["properties"].items()
    settings = ["*where*"] if is_where else []
    for name, setting in rows["properties"].items():
        if is_where and name in WHERE:
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
