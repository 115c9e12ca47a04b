"""An output has one identity: it is claimed, resumed, refused by name, or removed on request."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.job import identity as module
from pipeline.job.identity import claim, identity, input_ranges
from pipeline.job.options import Refused, parse
from pipeline.job.resolve import Job, resolve
from tests.runs import examples, write_input
from transforms.plan_chunks import list_files
from transforms.records import InputFile
from transforms.run_files import RunFiles
from transforms.storage import commit

PART = "parts/000000-a-g00000-r000000000-n3.parquet"


@pytest.fixture
def job(bert_folder: Path, tmp_path: Path) -> Job:
    """Resolve a job on two files without running it."""
    for name in ("a", "b"):
        write_input(tmp_path / "in" / f"{name}.parquet", examples(3))
    options, rest = parse(
        ["annotate", f"--input={tmp_path}/in", f"--output={tmp_path}/out", f"--model={bert_folder}"]
    )
    return resolve(options, PipelineOptions(rest))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def configured(job: Job, **changes: Any) -> Job:
    configuration = {stage: {**values, **changes} for stage, values in job.configuration.items()}
    return replace(job, configuration=configuration)


def both_stages(job: Job) -> Job:
    """Resolve annotate --audit."""
    outputs = (("audit", f"{job.output}/audit"), ("annotate", job.output))
    return replace(
        job,
        outputs=outputs,
        configuration=dict.fromkeys(("audit", "annotate"), job.configuration["annotate"]),
    )


def audit_alone(job: Job) -> Job:
    """Return the audit of `both_stages` as a separate job."""
    alone = {"audit": job.configuration["annotate"]}
    return replace(job, outputs=(("audit", f"{job.output}/audit"),), configuration=alone)


def fill(out: Path) -> None:
    """Write the files that a finished run leaves next to run.json."""
    for name in (PART, "rejections/p", "manifest.json"):
        commit(str(out), b"x", *name.split("/"))


def files_of(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def test_a_fresh_output_is_claimed(job: Job, out: Path):
    assert claim(job, overwrite=False) is False
    assert files_of(out) == {RunFiles.RUN}
    assert json.loads((out / RunFiles.RUN).read_text("utf-8")) == json.loads(
        json.dumps(identity(job, "annotate"))
    )


def test_the_same_run_goes_on_without_its_old_manifest(job: Job, out: Path):
    """An old manifest would report to downstream jobs that the unfinished run is complete."""
    claim(job, overwrite=False)
    fill(out)
    assert claim(job, overwrite=False) is True
    assert files_of(out) == {RunFiles.RUN, PART, "rejections/p"}


def test_the_same_run_goes_on_even_where_overwriting_is_allowed(job: Job, out: Path):
    """A nightly job may always pass --overwrite and still resume."""
    claim(job, overwrite=True)
    fill(out)
    assert claim(job, overwrite=True) is True
    assert PART in files_of(out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_best": 9}, "n_best was 5, is 9"),
        ({"model_digest": "other"}, "model_digest was "),
        ({"keep_columns": ["id"]}, "keep_columns was ['id', 'question', 'context'], is ['id']"),
        ({"new_option": 1}, "new_option was None, is 1"),
    ],
)
def test_another_configuration_is_refused_by_name(
    job: Job, out: Path, changes: dict[str, Any], message: str
):
    claim(job, overwrite=False)
    fill(out)
    before = {name: (out / name).read_bytes() for name in files_of(out)}
    with pytest.raises(Refused) as refused:
        claim(configured(job, **changes), overwrite=False)
    assert f"--output={out} has another run: {message}" in str(refused.value)
    assert {name: (out / name).read_bytes() for name in files_of(out)} == before


def test_an_option_that_is_gone_is_a_difference_too(job: Job, out: Path):
    claim(configured(job, old_option=1), overwrite=False)
    with pytest.raises(Refused, match="old_option was 1, is None"):
        claim(job, overwrite=False)


@pytest.mark.parametrize("files", [1, 2, 999, 1000, 2345])
def test_ranges_of_inputs_are_read_back_from_the_claim(job: Job, files: int):
    """Names have quotes, all line ends and other scripts; rows are only listed with a limit."""
    names = ("a", 'b "x"', "c,\nd", "灯台\u2028\x85", "é")
    made = tuple(
        InputFile(n, f"/in/{names[n % 5]}{n}", n, f"v{n}", f"label {n}", n if n % 2 else None)
        for n in range(files)
    )
    job = replace(job, inputs=replace(job.inputs, files=made))
    claim(job, overwrite=False)
    ranges = input_ranges(job)
    assert len(ranges) == min(files, 1000)
    found = [list_files(listed) for listed in ranges]
    assert tuple(file for each in found for file in each) == made
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_ranges_fit_a_claim_of_other_bytes(job: Job, out: Path):
    """Another version may write the same identity in other bytes."""
    claim(job, overwrite=False)
    (out / RunFiles.RUN).write_text(
        json.dumps(json.loads((out / RunFiles.RUN).read_text("utf-8")), indent=7)
    )
    assert claim(job, overwrite=False) is True
    assert [file for listed in input_ranges(job) for file in list_files(listed)] == list(job.files)


class TestInputs:
    def changed(self, job: Job, place: int, **values: Any) -> Job:
        files = list(job.files)
        files[place] = replace(files[place], **values)
        return replace(job, inputs=replace(job.inputs, files=tuple(files)))

    @pytest.mark.parametrize("values", [{"size": 1}, {"version": "later"}])
    def test_a_changed_file_is_named(self, job: Job, values: dict[str, Any]):
        claim(job, overwrite=False)
        with pytest.raises(Refused, match=f"input {job.files[1].path} has changed since"):
            claim(self.changed(job, 1, **values), overwrite=False)

    def test_a_touched_file_is_told_by_its_time(self, job: Job):
        claim(job, overwrite=False)
        with pytest.raises(
            Refused,
            match=r"it had (\d+) bytes, version of .*, "
            r"it has \1 bytes, version of 1970-01-01T00:00:01",
        ):
            claim(self.changed(job, 1, version="1.0"), overwrite=False)

    def test_a_file_more_is_named(self, job: Job):
        claim(replace(job, inputs=replace(job.inputs, files=job.files[:1])), overwrite=False)
        with pytest.raises(Refused, match=f"input {job.files[1].path} was not part of it"):
            claim(job, overwrite=False)

    def test_a_file_less_is_named(self, job: Job):
        claim(job, overwrite=False)
        with pytest.raises(Refused, match=f"input {job.files[1].path} was part of it"):
            claim(replace(job, inputs=replace(job.inputs, files=job.files[:1])), overwrite=False)


class TestOverwrite:
    def test_it_removes_all_of_the_other_run_and_nothing_else(self, job: Job, out: Path):
        claim(job, overwrite=False)
        fill(out)
        (out / "notes.txt").write_text("mine")
        other = configured(job, n_best=9)
        assert claim(other, overwrite=True) is False
        assert files_of(out) == {RunFiles.RUN, "notes.txt"}
        assert claim(other, overwrite=False) is True

    @pytest.mark.parametrize("folder", ["", "audit/"])
    def test_it_removes_no_file_that_people_have_filled_in(self, job: Job, out: Path, folder: str):
        claim(job, overwrite=False)
        fill(out)
        commit(f"{out}/{folder}".rstrip("/"), b"id,decision\n1,gold\n", RunFiles.RELABEL_CSV)
        before = files_of(out)
        with pytest.raises(Refused, match=rf"--overwrite: {out}/{folder}relabel\.csv is filled in"):
            claim(configured(job, n_best=9), overwrite=True)
        assert files_of(out) == before
        assert claim(job, overwrite=True) is True, "it removes nothing of the same run"

    def test_parts_without_an_identity_are_refused_and_removed_when_asked(
        self, job: Job, out: Path
    ):
        fill(out)
        with pytest.raises(Refused, match=r"has parts of a run without run\.json"):
            claim(job, overwrite=False)
        assert files_of(out) == {PART, "rejections/p", "manifest.json"}
        assert claim(job, overwrite=True) is False
        assert files_of(out) == {RunFiles.RUN}

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "{}", '{"configuration": {}, "inputs": [1]}']
    )
    def test_a_damaged_identity_is_refused_and_removed_when_asked(
        self, job: Job, out: Path, content: str
    ):
        fill(out)
        (out / RunFiles.RUN).write_text(content)
        with pytest.raises(Refused, match=r"its run\.json is damaged"):
            claim(job, overwrite=False)
        assert claim(job, overwrite=True) is False
        assert files_of(out) == {RunFiles.RUN}


def test_an_output_in_which_nothing_can_be_made_is_refused(job: Job, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    for output in (f"{tmp_path}/file", f"{tmp_path}/file/out"):
        with pytest.raises(Refused, match=f"--output={output} can't be written"):
            claim(replace(job, outputs=(("annotate", output),)), overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_runs_that_start_at_the_same_time_one_is_refused(
    job: Job, out: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
):
    """The other run claims between this run's look at the output and its claim."""
    create = module.create

    def create_too_late(output: str, content: bytes, name: str) -> bool:
        monkeypatch.setattr(module, "create", create)
        assert claim(configured(job, n_best=9), overwrite=False) is False
        return create(output, content, name)

    monkeypatch.setattr(module, "create", create_too_late)
    with pytest.raises(Refused, match="n_best was 9, is 5"):
        claim(job, overwrite)
    assert json.loads((out / RunFiles.RUN).read_text("utf-8"))["configuration"]["n_best"] == 9


def test_annotate_with_audit_claims_both_folders(job: Job, out: Path):
    both = both_stages(job)
    assert claim(both, overwrite=False) is False
    assert files_of(out) == {RunFiles.RUN, f"audit/{RunFiles.RUN}"}
    assert claim(both, overwrite=False) is True


def test_when_one_of_two_folders_is_anothers_neither_is_touched(job: Job, out: Path):
    """A refusal that removed a manifest would turn a complete run into an incomplete one."""
    claim(job, overwrite=False)
    fill(out)
    claim(configured(audit_alone(job), n_best=9), overwrite=False)
    before = files_of(out)
    with pytest.raises(Refused, match=f"--output={out}/audit has another run: n_best was 9, is 5"):
        claim(both_stages(job), overwrite=False)
    assert files_of(out) == before


def test_a_refusal_leaves_no_claim_on_the_other_folder(job: Job, out: Path):
    claim(configured(audit_alone(job), n_best=9), overwrite=False)
    with pytest.raises(Refused):
        claim(both_stages(job), overwrite=False)
    assert files_of(out) == {f"audit/{RunFiles.RUN}"}


def test_a_manifest_without_an_identity_does_not_outlive_the_claim(job: Job, out: Path):
    commit(str(out), b"{}", "manifest.json")
    claim(job, overwrite=False)
    assert files_of(out) == {RunFiles.RUN}
