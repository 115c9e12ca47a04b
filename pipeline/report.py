"""What a run prints at its end: the accounting of its manifest, in words."""

from __future__ import annotations

from typing import Any


def accounting(manifest: dict[str, Any], output: str) -> str:
    """Rows planned = answered + no answer + rejected + in failed chunks, and what else a person wants to know."""
    rows = manifest["rows"]
    parts = [f"{rows['answered']} answered", f"{rows['no_answer']} no answer", f"{rows['rejected']} rejected"]
    parts.append(f"{rows['in_failed_chunks']} in failed chunks")
    lines = [f"{rows['planned']} rows = {' + '.join(parts)}"]
    lines += [f"  rejected as {reason}: {count}" for reason, count in manifest["rejected_by_reason"].items()]
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
    for failure in manifest["failures"][:20]:
        where = failure["path"] + (f", row group {failure['row_group']}" if failure["row_group"] >= 0 else "")
        lines.append(f"failed: {where}, {failure['rows']} rows, {failure['stage']}: {failure['error']}")
    unlisted = len(manifest["failures"][20:]) + manifest["failures_not_listed"]
    if unlisted:
        lines.append(f"... and {unlisted} failures more (see {output}/manifest.json)")
    lines.append(f"{manifest['state']}: {output}" + "".join(f"\n  {reason}" for reason in manifest["why"]))
    return "\n".join(lines)
