"""What a run prints at its end: the accounting of its manifest, in words."""

from __future__ import annotations

from typing import Any


def printable(text: str) -> str:
    """The text with control characters, and others that change how a terminal shows it, as escapes; lines stay lines."""
    return "".join(each if each.isprintable() or each in "\n\t" else repr(each)[1:-1] for each in text)


def accounting(manifest: dict[str, Any], output: str) -> str:
    """Rows planned = the sum of what became of them, and what else a person wants to know."""
    rows = manifest["rows"]
    parts = [f"{count} {name.replace('_', ' ')}" for name, count in rows.items() if name != "planned"]
    lines = [f"{rows['planned']} rows = {' + '.join(parts)}"]
    lines += [f"  {reason}: {count}" for reason, count in manifest["reasons"].items()]
    tokens = manifest["tokens"]
    lines.append(
        f"{manifest['windows']} windows of {manifest['distinct_pairs']} distinct pairs, {tokens['real']} tokens, "
        f"{100 * tokens['padding']:.1f} % padding"
    )
    steps = manifest["steps"]
    total = sum(step["seconds"] for step in steps.values())
    if total:
        shares = [f"{name} {100 * step['seconds'] / total:.0f} %" for name, step in steps.items()]
        lines.append(f"{total:.1f} s of work: {', '.join(shares)}")
    if manifest["retries"]:
        lines.append(f"{manifest['retries']} retries after faults of the store")
    for failure in manifest["failures"][:20]:
        where = failure["path"] + (f", row group {failure['row_group']}" if failure["row_group"] >= 0 else "")
        lines.append(f"failed: {where}, {failure['rows']} rows, {failure['step']}: {failure['error']}")
    unlisted = len(manifest["failures"][20:]) + manifest["failures_not_listed"]
    if unlisted:
        lines.append(f"... and {unlisted} failures more (see {output}/manifest.json)")
    lines.append(f"{manifest['state']}: {output}" + "".join(f"\n  {reason}" for reason in manifest["why"]))
    return printable("\n".join(lines))


def audit_figures(audit: dict[str, Any]) -> str:
    """The headline figures of an audit, in words."""
    everything = audit["all"]
    lines = []
    for name in ("nll", "nll_start", "nll_end"):
        loss = everything["losses"][name]
        if loss["count"]:
            lines.append(
                f"{name}: mean {loss['mean']:.4f} +- {loss['standard_error']:.4f}, median {loss['p50']:.4f}, "
                f"p95 {loss['p95']:.4f}, max {loss['max']:.4f} over {loss['count']} rows"
            )
    if "f1" in everything:
        em, f1 = everything["exact_match"], everything["f1"]
        lines.append(
            f"EM {em['percent']:.2f} [{em['interval'][0]:.2f}, {em['interval'][1]:.2f}], "
            f"F1 {f1['percent']:.2f} [{f1['interval'][0]:.2f}, {f1['interval'][1]:.2f}], "
            f"answerability {everything['answerability_accuracy']:.2f} %"
        )
    calibration = everything["calibration"]
    if calibration["count"]:
        lines.append(
            f"calibration error {calibration['expected_calibration_error']:.4f}, Brier score {calibration['brier']:.4f} "
            f"over {calibration['count']} answers"
        )
    return "\n".join(lines)


def duplicate_figures(found: dict[str, Any]) -> str:
    """What `duplicates.json` found, in words."""
    lines = [
        f"{found['repeated_pairs']} question/context pairs stand in it more than once ({found['rows_of_repeated_pairs']} "
        f"rows), {found['pairs_with_conflicting_golds']} of them with conflicting golds"
    ]
    for kind, shared in found.get("overlap", {}).items():
        lines.append(f"{shared['shared']} {kind}s shared with {found['against']} ({shared['own_rows']} rows)")
    return printable("\n".join(lines))
