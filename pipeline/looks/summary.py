"""Say in words what a run did: its accounting, and the figures of audits and comparisons."""

from __future__ import annotations

from typing import Any

from pipeline.looks.terminal import printable


def accounting(manifest: dict[str, Any], output: str) -> str:
    """Return the accounting of a manifest: rows planned = the sum of their outcomes, and so on."""
    rows = manifest["rows"]
    outcomes = [
        f"{count} {name.replace('_', ' ')}" for name, count in rows.items() if name != "planned"
    ]
    planned, questions = rows["planned"], manifest.get("questions")
    total = f"{planned} rows"
    if questions:
        total = f"{planned // questions} rows x {questions} questions = {planned}"
    lines = [f"{total} = {' + '.join(outcomes)}"]
    lines += [f"  {reason}: {count}" for reason, count in manifest["reasons"].items()]

    # What the network read.
    tokens = manifest["tokens"]
    read = f", {manifest['windows_read']} of them read" if "windows_read" in manifest else ""
    lines.append(
        f"{manifest['windows']} windows of {manifest['distinct_pairs']} distinct pairs{read}, "
        f"{tokens['real']} tokens, {100 * tokens['padding']:.1f} % padding"
    )
    unknown = manifest["unknown_text"]
    if unknown["unknown_characters"]:
        lines.append(
            f"{100 * unknown['share']:.2g} % of the contexts' characters are in tokens that the "
            "tokenizer does not know"
        )

    for name, count in manifest.get("unusable_places", {}).items():
        if count:
            lines.append(f"{count} rows have null or malformed {name}: their answers have none")

    # Where the time went, and what failed.
    steps = manifest["steps"]
    total = sum(step["seconds"] for step in steps.values())
    if total:
        shares = [f"{name} {100 * step['seconds'] / total:.0f} %" for name, step in steps.items()]
        lines.append(f"{total:.1f} s of work: {', '.join(shares)}")
    if manifest["retries"]:
        lines.append(f"{manifest['retries']} retries after faults of the store")
    # A long list of failures would push the totals off the screen.
    for failure in manifest["failures"][:20]:
        where = failure["path"] + (
            f", row group {failure['row_group']}" if failure["row_group"] >= 0 else ""
        )
        lines.append(
            f"failed: {where}, {failure['rows']} rows, {failure['step']}: {failure['error']}"
        )
    unlisted = len(manifest["failures"][20:]) + manifest["failures_not_listed"]
    if unlisted:
        lines.append(f"... and {unlisted} more failures (see {output}/manifest.json)")
    lines.append(
        f"{manifest['state']}: {output}" + "".join(f"\n  {reason}" for reason in manifest["why"])
    )
    return printable("\n".join(lines))


def audit_figures(audit: dict[str, Any]) -> str:
    """Return the headline figures of an audit."""
    # The losses of all rows.
    everything = audit["all"]
    lines = []
    for name in ("nll", "nll_start", "nll_end", "joint_nll"):
        loss = everything["losses"][name]
        if loss["count"]:
            lines.append(
                f"{name}: mean {loss['mean']:.4f} +- {loss['standard_error']:.4f}, "
                f"median {loss['p50']:.4f}, p95 {loss['p95']:.4f}, max {loss['max']:.4f} "
                f"over {loss['count']} rows"
            )
    # How right the answers are.
    if "f1" in everything:
        # EM and F1 are only reported for audits that have golds to compare with.
        em, f1, character = (everything[name] for name in ("exact_match", "f1", "character_f1"))
        by_character = ""
        if character["percent"] != f1["percent"]:
            by_character = f"by character {character['percent']:.2f}, "
        auc = everything.get("answerability_auc")
        lines.append(
            f"EM {em['percent']:.2f} [{em['interval'][0]:.2f}, {em['interval'][1]:.2f}], "
            f"F1 {f1['percent']:.2f} [{f1['interval'][0]:.2f}, {f1['interval'][1]:.2f}], "
            f"{by_character}"
            f"answerability {everything['answerability_accuracy']:.2f} %"
            + (f", AUC {auc['auc']:.4f}" if auc else "")
        )
    # How far their probabilities can be trusted.
    calibration = everything["calibration"]
    if calibration["count"]:
        low, high = calibration["expected_calibration_error_interval"]
        interval = f" [{low:.4f}, {high:.4f}]" if calibration["count"] > 1 else ""
        lines.append(
            f"calibration error {calibration['expected_calibration_error']:.4f}{interval}, "
            f"Brier score {calibration['brier']:.4f} over {calibration['count']} answers"
        )
    selective = everything["risk_coverage"]
    if selective["answers"]:
        coverages = ", ".join(
            f"{100 * at['coverage']:.1f} % at {precision}" if at else f"none at {precision}"
            for precision, at in selective["coverage_at_precision"].items()
        )
        lines.append(f"AURC {selective['aurc']:.4f}, coverage by precision: {coverages}")
    if not lines:
        lines.append(f"nothing was scored: {_why_nothing(audit)}")
    lines += _over_spans(audit.get("several_answers"))
    lines += audit["hints"]
    # What became of the corrections, for each of which there should be a row.
    corrections = audit["corrections"]
    if corrections["file"]:
        lines.append(
            f"{corrections['matched']} of {corrections['given']} corrections matched, "
            f"{corrections['rows_corrected']} rows corrected"
        )
    missing = corrections["ids_of_no_row"]
    if missing:
        count = corrections["given"] - corrections["matched"]
        named = ", ".join(map(repr, missing[:10])) + (", ..." if count > 10 else "")
        lines.append(f"{count} corrections match no row: {named}")
    return printable("\n".join(lines))


def _over_spans(several: dict[str, Any] | None) -> list[str]:
    """Return the figures over spans of an audit that measures distinct ones."""
    if several is None:
        return []
    lines = [
        f"{several['places']} places with a gold; {several['rows_with_several_places']} of "
        f"{several['rows']} rows have several"
    ]
    for name, words in (("all_answers", "all answers"), ("best_f1", "best F1 over spans")):
        if name in several:
            each = several[name]
            lines.append(
                f"{words}, of probability {each['probability']:.3g} or more: precision "
                f"{each['precision']:.2f}, recall {each['recall']:.2f}, F1 {each['f1']:.2f}"
            )
    if "aupr" in several:
        at = {recall: several[f"precision_at_{recall}_recall"] for recall in (80, 90)}
        reached = [
            f"precision {'not reached' if value is None else f'{value:.2f}'} at {recall} % recall"
            for recall, value in at.items()
        ]
        lines.append(
            f"over spans: AUPR {several['aupr']:.2f}, {', '.join(reached)} "
            f"(highest recall {several['highest_recall']:.2f})"
        )
    return lines


def _why_nothing(audit: dict[str, Any]) -> str:
    """Return why no row of an audit was scored: the number of rows of each reason."""
    failed = audit["rows"]["in_failed_chunks"]
    why = {**audit["reasons"], **({"in failed chunks": failed} if failed else {})}
    return ", ".join(f"{count} {reason}" for reason, count in why.items()) or "there are no rows"


def comparison_figures(comparison: dict[str, Any], output: str) -> str:
    """Return the headline figures of a comparison."""
    unpaired = [
        f"{each['rows']} {kind.replace('_', ' ')}"
        for kind, each in comparison["unpaired"].items()
        if each["rows"]
    ]
    lines = [f"{comparison['paired']} examples in both" + "".join(f", {each}" for each in unpaired)]
    for metric, name, unit in (
        ("f1", "F1", "points"),
        ("exact_match", "EM", "points"),
        ("nll", "loss", "nats"),
    ):
        change = comparison["all"][metric]
        if change["count"]:
            low, high = change["interval"]
            lines.append(
                f"{name}: {change['before']:.4f} -> {change['after']:.4f}, "
                f"{change['difference']:+z.4f} [{low:+z.4f}, {high:+z.4f}] {unit} "
                f"over {change['count']} pairs ({change['better']} better, {change['worse']} worse)"
            )
    lines.append(
        f"{'not passed' if comparison['why'] else 'passed'}: {output}"
        + "".join(f"\n  {why}" for why in comparison["why"])
    )
    return "\n".join(lines)


def duplicate_figures(found: dict[str, Any]) -> str:
    """Return the figures of `duplicates.json`."""
    lines = [
        f"{found['repeated_pairs']} question/context pairs occur more than once "
        f"({found['rows_of_repeated_pairs']} rows), "
        f"{found['pairs_with_conflicting_golds']} of them with conflicting golds"
    ]
    for kind, shared in found.get("overlap", {}).items():
        lines.append(
            f"{shared['shared']} {kind}s shared with {found['against']} ({shared['own_rows']} rows)"
        )
    return printable("\n".join(lines))
