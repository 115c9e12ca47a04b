"""From options to a job: resolved defaults, and refusals by name before a row is read."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from apache_beam.options.pipeline_options import PipelineOptions

from model.reading.reader import resolve_dtype
from pipeline.job.identity import claim
from pipeline.job.options import Refused, parse
from pipeline.job.resolve import workers
from tests.checkpoints import ARCHITECTURES
from tests.pipeline.audits import gold_examples
from tests.pipeline.job.conftest import Resolve
from tests.runs import examples, write_input


def with_config(bert_folder: Path, folder: Path, **changes: Any) -> Path:
    """Copy the tiny checkpoint with another config.json; return its folder."""
    shutil.copytree(bert_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


class TestDefaults:
    def test_everything_is_resolved(self, job: Resolve, source: Path, tmp_path: Path):
        found = job()
        assert (found.stages, found.output) == (("annotate",), f"{tmp_path}/out")
        assert [file.path for file in found.files] == [str(source)]
        assert found.inputs.expected == examples(1).schema
        assert found.reader.limits.max_length == 384
        assert found.reader.limits.overlap == 128
        assert found.inputs.columns.answers == ""
        assert found.reader.decoding.null is False
        assert found.reader.decoding.temperature == 1.0
        assert found.reader.decoding.null_score_diff_threshold == 0.0
        assert found.columns.keep == ("id", "question", "context")
        configuration = found.configuration_of("annotate")
        assert "auto" not in configuration.values()
        assert configuration["dtype"] == resolve_dtype("auto", "auto")
        assert None not in (configuration["batch_tokens"], configuration["max_length"])

    def test_what_changes_no_answer_is_no_part_of_the_configuration(self, job: Resolve):
        plain = job().configuration_of("annotate")
        others = (
            "--direct_num_workers=3",
            "--max_failed_fraction=0.1",
            "--device=cpu",
            "--overwrite",
        )
        for other in others:
            assert job(other).configuration_of("annotate") == plain

    @pytest.mark.parametrize(
        "option",
        [
            "--n_best=2",
            "--max_length=200",
            "--overlap=60",
            "--max_question=9",
            "--max_windows=3",
            "--max_answer_length=5",
            "--null=on",
            "--null_score_diff_threshold=1",
            "--min_probability=0.25",
            "--chunk_rows=9",
            "--chunk_bytes=999",
            "--batch_tokens=99",
            "--limit=2",
            "--keep_columns=id",
            "--output_prefix=x",
            "--id_column=key",
            "--dtype=float16",
            "--locate=page",
        ],
    )
    def test_what_changes_answers_or_parts_is_part_of_it(self, job: Resolve, option: str):
        assert job(option).configuration_of("annotate") != job().configuration_of("annotate")

    def test_a_threshold_is_annotates_alone_and_named_only_where_it_is_given(
        self, job: Resolve, tmp_path: Path
    ):
        name = "min_probability"
        assert name not in job("--min_probability=0").configuration_of("annotate")
        source = write_input(tmp_path / "gold.parquet", gold_examples(1))
        both = job("--min_probability=0.25", "--audit", f"--input={source}")
        assert both.configuration_of("annotate")[name] == 0.25
        assert name not in both.configuration_of("audit")
        with pytest.raises(
            Refused, match=r"--min_probability=0\.25 applies to annotate, not to audit"
        ):
            parse(["audit", "--input=a", "--output=b", "--min_probability=0.25"])

    def test_the_window_prior_is_named_only_where_it_has_a_weight(
        self, job: Resolve, bert_folder: Path, tmp_path: Path
    ):
        assert "prior" not in job("--prior=auto").configuration_of("annotate")
        model = Path(shutil.copytree(bert_folder, tmp_path / "model"))
        config = json.loads((model / "config.json").read_text())
        config["spanmill"] = {"window_prior": 0.5}
        (model / "config.json").write_text(json.dumps(config))
        weighed = job(f"--model={model}")
        assert weighed.reader.limits.prior == 0.5
        assert weighed.configuration_of("annotate")["prior"] == 0.5
        off = job(f"--model={model}", "--prior=off")
        assert off.reader.limits.prior == 0
        assert "prior" not in off.configuration_of("annotate")

    @pytest.mark.parametrize(("given", "value"), [("7", 7), ("0.25", 0.25), ("all", "all")])
    def test_windows_to_read_are_a_number_or_a_share(self, job: Resolve, given: str, value: Any):
        found = job(f"--read_windows={given}")
        assert found.reader.limits.read_windows == value
        configuration = found.configuration_of("annotate")
        assert configuration.get("read_windows", "all") == value
        assert ("read_windows" in configuration) == (given != "all")

    @pytest.mark.parametrize("given", ["0", "-1", "1.0", "0.0", "nan", "some", "10000001", ""])
    def test_other_windows_to_read_are_refused(self, given: str):
        with pytest.raises(SystemExit):
            parse(["annotate", "--input=a", "--output=b", f"--read_windows={given}"])

    def test_an_audit_must_read_all_windows(self, job: Resolve, tmp_path: Path):
        source = write_input(tmp_path / "gold.parquet", gold_examples(1))
        with pytest.raises(Refused, match="--read_windows=3: an audit measures losses over all"):
            job("--read_windows=3", "--audit", f"--input={source}")
        with pytest.raises(Refused, match="--read_windows=3 applies to annotate, not to audit"):
            parse(["audit", "--input=a", "--output=b", "--read_windows=3"])

    def test_a_wanted_precision_becomes_the_checkpoints_threshold(
        self, job: Resolve, bert_folder: Path, tmp_path: Path
    ):
        own = {"null_threshold": -2.0, "precision_thresholds": {"0.9": {"min_probability": 0.75}}}
        model = with_config(bert_folder, tmp_path / "off", spanmill=own)
        given = (f"--model={model}", "--min_probability=precision:0.90")
        assert job(*given).configuration_of("annotate")["min_probability"] == 0.75
        job(*given, "--null_score_diff_threshold=3")  # decides nothing while null is off
        with pytest.raises(
            Refused, match=r"--min_probability=precision:0\.8: the checkpoint stores a"
        ):
            job(f"--model={model}", "--min_probability=precision:0.8")
        with pytest.raises(
            Refused, match=r"threshold is for the null option off: leave out --null"
        ):
            job(*given, "--null=on")

        model = with_config(bert_folder, tmp_path / "prior", spanmill={**own, "window_prior": 0.5})
        with pytest.raises(Refused, match=r"a window prior of weight 0\.5: leave out --prior"):
            job(f"--model={model}", "--min_probability=precision:0.9", "--prior=off")

        model = with_config(bert_folder, tmp_path / "on", spanmill={**own, "null": True})
        given = (f"--model={model}", "--min_probability=precision:0.9")
        assert job(*given, "--null=on").reader.decoding.min_probability == 0.75
        for other in ("--null=off", "--null_score_diff_threshold=3"):
            with pytest.raises(
                Refused, match=r"is for the null option on, threshold -2: leave out"
            ):
                job(*given, other)

    def test_a_configuration_can_be_written_down(self, job: Resolve):
        configuration = job().configuration_of("annotate")
        assert json.loads(json.dumps(configuration)) == configuration

    def test_a_short_window_has_a_shorter_overlap(self, job: Resolve):
        assert job("--max_length=120").reader.limits.overlap == 40
        assert job("--max_length=120", "--max_answer_length=46").reader.limits.overlap == 45

    def test_the_checkpoint_has_its_own_settings(
        self, job: Resolve, bert_folder: Path, tmp_path: Path
    ):
        own = {"null": True, "temperature": 2.5, "null_threshold": -1.5, "link": "sigmoid"}
        model = with_config(bert_folder, tmp_path / "model", spanmill=own)
        found = job(f"--model={model}")
        assert (
            found.reader.decoding.null,
            found.reader.decoding.temperature,
            found.reader.decoding.null_score_diff_threshold,
        ) == (True, 2.5, -1.5)
        assert found.reader.link == "sigmoid"
        overruled = job(f"--model={model}", "--null=off", "--null_score_diff_threshold=3")
        assert (
            overruled.reader.decoding.null,
            overruled.reader.decoding.null_score_diff_threshold,
        ) == (False, 3)

    def test_the_model_bounds_the_window(self, job: Resolve, bert_folder: Path, tmp_path: Path):
        model = Path(shutil.copytree(bert_folder, tmp_path / "model"))
        settings = json.loads((model / "tokenizer_config.json").read_text())
        (model / "tokenizer_config.json").write_text(
            json.dumps({**settings, "model_max_length": 200})
        )
        assert job(f"--model={model}").reader.limits.max_length == 200
        (model / "tokenizer_config.json").write_text(
            json.dumps({**settings, "model_max_length": int(1e30)})
        )
        # All that the network has positions for.
        assert job(f"--model={model}", "--max_length=512").reader.limits.max_length == 512
        with pytest.raises(Refused, match="--max_length=513: the model takes at most 512 tokens"):
            job(f"--model={model}", "--max_length=513")

    @pytest.mark.parametrize(
        ("arguments", "count"),
        [
            ((), 1),
            (("--direct_num_workers=3",), 3),
            (("--direct_num_workers=0",), os.cpu_count()),
            (("--num_workers=5",), 5),
            (("--num_workers=5", "--max_num_workers=9"), 9),
        ],
    )
    def test_runs_are_cut_for_the_workers_there_may_be(
        self, job: Resolve, arguments: tuple[str, ...], count: int
    ):
        assert workers(PipelineOptions(list(arguments))) == count
        assert job(*arguments).work.chunk_size.runs == 4 * count
        assert job(*arguments).work.alone == (count == 1)
        assert not job(
            *arguments, "--runner=PrismRunner"
        ).work.alone  # a service may have more than the options say


class TestModelRefusals:
    def test_a_folder_that_is_no_checkpoint(self, job: Resolve, tmp_path: Path):
        (tmp_path / "model").mkdir()
        with pytest.raises(Refused, match=r"model has no config\.json"):
            job(f"--model={tmp_path}/model")

    def test_weights_that_are_a_pickle(self, job: Resolve, bert_folder: Path, tmp_path: Path):
        model = with_config(bert_folder, tmp_path / "model")
        (model / "model.safetensors").rename(model / "pytorch_model.bin")
        with pytest.raises(
            Refused,
            match=r"only pytorch_model\.bin, which is a pickle: weights must be safetensors",
        ):
            job(f"--model={model}")

    def test_code_of_its_own(self, job: Resolve, bert_folder: Path, tmp_path: Path):
        model = with_config(
            bert_folder,
            tmp_path / "model",
            auto_map={"AutoModelForQuestionAnswering": "evil.Model"},
        )
        with pytest.raises(Refused, match="remote code is never run"):
            job(f"--model={model}")

    @pytest.mark.parametrize("own", [{"null": "yes"}, {"temperature": 0}, {"link": "relu"}])
    def test_settings_that_mean_nothing(
        self, job: Resolve, bert_folder: Path, tmp_path: Path, own: dict[str, Any]
    ):
        with pytest.raises(Refused, match=r"config\.json has spanmill = "):
            job(f"--model={with_config(bert_folder, tmp_path / 'model', spanmill=own)}")

    def test_workers_elsewhere_get_a_dtype_that_every_core_has(
        self, job: Resolve, monkeypatch: pytest.MonkeyPatch
    ):
        """The launcher's core says nothing about theirs, and the next launcher may have another."""
        monkeypatch.setattr("model.reading.reader.bfloat16_is_faster", lambda _: True)
        assert job("--device=cpu").reader.reader.dtype == "bfloat16"
        for device in ("auto", "cpu"):
            found = job("--runner=PortableRunner", f"--device={device}")
            assert (found.reader.reader.dtype, found.reader.reader.device) == ("float32", device)
            assert found.configuration_of("annotate")["dtype"] == "float32"
        with pytest.raises(
            Refused, match="--dtype=auto: the workers' CUDA devices are unknown here"
        ):
            job("--runner=PortableRunner", "--device=cuda")
        with pytest.raises(Refused, match="--dtype=int8: is for a CPU, not for --device=cuda"):
            job("--runner=PortableRunner", "--device=cuda", "--dtype=int8")

    def test_int8_is_for_workers_on_this_core(
        self, job: Resolve, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("model.reading.reader.bfloat16_is_faster", lambda _: False)
        monkeypatch.setattr("model.reading.reader.int8_is_faster", lambda: True)
        folder = with_config(bert_folder, tmp_path / "model", spanmill={"int8": True})
        arguments = (f"--model={folder}", "--device=cpu")
        here = job(*arguments)
        assert here.configuration_of("annotate")["dtype"] == "int8"
        elsewhere = job(*arguments, "--runner=PortableRunner")
        assert elsewhere.configuration_of("annotate")["dtype"] == "float32"
        claim(here, overwrite=False)
        monkeypatch.setattr("model.reading.reader.int8_is_faster", lambda: False)
        assert claim(job(*arguments), overwrite=False) is True

    def test_auto_keeps_the_dtype_of_the_run_that_it_resumes(
        self, job: Resolve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ):
        """A loaded machine may time bfloat16 differently when the same command is started again."""
        monkeypatch.setattr("model.reading.reader.bfloat16_is_faster", lambda _: True)
        claim(job("--device=cpu"), overwrite=False)
        monkeypatch.setattr("model.reading.reader.bfloat16_is_faster", lambda _: False)
        with caplog.at_level(logging.INFO, "spanmill"):
            resumed = job("--device=cpu")
        assert resumed.reader.reader.dtype == "bfloat16"
        assert resumed.configuration_of("annotate")["dtype"] == "bfloat16"
        assert [message for message in caplog.messages if "dtype" in message] == [
            f"--dtype=auto: using bfloat16, as the run in {resumed.output} does"
        ]
        assert claim(resumed, overwrite=False) is True

    @pytest.mark.parametrize("argument", ["--n_best=2", "--dtype=float32"])
    def test_another_job_keeps_its_own_dtype(
        self, job: Resolve, argument: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("model.reading.reader.bfloat16_is_faster", lambda _: True)
        claim(job("--device=cpu"), overwrite=False)
        monkeypatch.setattr("model.reading.reader.bfloat16_is_faster", lambda _: False)
        other = job("--device=cpu", argument)
        assert other.reader.reader.dtype == "float32"
        with pytest.raises(Refused, match="has another run: "):
            claim(other, overwrite=False)

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"configuration": 1}'])
    def test_a_damaged_run_has_no_dtype(self, job: Resolve, tmp_path: Path, content: str):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "run.json").write_text(content)
        assert job("--device=cpu").reader.reader.dtype == resolve_dtype("auto", "cpu")

    def test_a_dtype_that_this_machine_lacks_is_not_taken(
        self, job: Resolve, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        """XLNet computes in float32 only; the message of `claim` then names the dtype."""
        (kind,) = [each for each in ARCHITECTURES if each.name == "xlnet"]
        arguments = ("--device=cpu", f"--model={kind.build(tmp_path / 'xlnet')}")
        claim(job(*arguments), overwrite=False)
        path = tmp_path / "out" / "run.json"
        path.write_text(path.read_text().replace('"float32"', '"bfloat16"'))
        with caplog.at_level(logging.INFO, "spanmill"):
            found = job(*arguments)
        assert found.reader.reader.dtype == "float32"
        assert "can't be resumed in bfloat16: " in caplog.text
        with pytest.raises(Refused, match="dtype was 'bfloat16', is 'float32'"):
            claim(found, overwrite=False)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_a_launcher_whose_core_lacks_the_dtype_checks_in_float32(
        self,
        job: Resolve,
        bert_folder: Path,
        tmp_path: Path,
        dtype: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ):
        # A checkpoint that no other test has loaded.
        model = f"--model={with_config(bert_folder, tmp_path / 'new', launched=dtype)}"

        def embedding(tokens: torch.Tensor, weights: torch.Tensor, *more: Any) -> torch.Tensor:
            if weights.dtype != torch.float32:
                raise NotImplementedError(f"embedding not implemented for {weights.dtype}")
            return weights[tokens]

        monkeypatch.setattr(torch.nn.functional, "embedding", embedding)
        with caplog.at_level(logging.INFO, "spanmill"):
            found = job(
                "--runner=PortableRunner", "--device=cuda:1", f"--dtype={dtype}", "--compile", model
            )
        assert (
            found.reader.reader.device,
            found.reader.reader.dtype,
            found.reader.reader.compile,
        ) == (
            "cuda:1",
            dtype,
            True,
        )
        assert found.configuration_of("annotate")["dtype"] == dtype
        assert (
            f"--dtype={dtype}: this machine's CPU can't compute in it; checking the checkpoint in "
            "float32 instead" in caplog.text
        )
        with pytest.raises(
            Refused, match=f"can't read tokens in torch.{dtype}"
        ):  # a local run would compute in it
            job("--device=cpu", f"--dtype={dtype}", model)

    def test_a_network_that_no_worker_can_run_in_the_dtype(self, job: Resolve, tmp_path: Path):
        (kind,) = [each for each in ARCHITECTURES if each.name == "xlnet"]
        model = f"--model={kind.build(tmp_path / 'xlnet')}"
        with pytest.raises(Refused, match=r"can't read tokens in torch\.bfloat16"):
            job("--runner=PortableRunner", "--device=cuda", "--dtype=bfloat16", model)
        assert (
            job(
                "--runner=PortableRunner", "--device=cuda", "--dtype=float32", model
            ).reader.reader.dtype
            == "float32"
        )

    def test_a_device_that_is_not_there(self, job: Resolve):
        with pytest.raises(Refused, match="--device=cuda:99: device 'cuda:99': this machine has"):
            job("--device=cuda:99")

    def test_a_null_option_without_a_classifier_token(
        self, job: Resolve, bert_folder: Path, tmp_path: Path
    ):
        model = Path(shutil.copytree(bert_folder, tmp_path / "model"))
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (model / name).exists():
                settings = json.loads((model / name).read_text())
                settings.pop("cls_token", None)
                (model / name).write_text(json.dumps(settings))
        assert job(f"--model={model}").reader.decoding.null is False
        with pytest.raises(
            Refused, match="--null=on: the tokenizer puts no classifier token into a pair"
        ):
            job(f"--model={model}", "--null=on")


class TestWindowRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--max_length=513",), "--max_length=513: the model takes at most 512 tokens"),
            (("--overlap=28",), "--overlap=28: must be at least max_answer_length - 1 = 29"),
            (
                ("--overlap=99", "--max_answer_length=101"),
                "--overlap=99: must be at least max_answer_length - 1 = 100",
            ),
            (("--max_length=100", "--overlap=33"), "--overlap=33: must be below 33"),
            (("--max_length=60", "--max_question=64"), "must be below 0"),
        ],
    )
    def test_a_window_that_some_answer_does_not_fit_is_refused(
        self, job: Resolve, arguments: tuple[str, ...], message: str
    ):
        with pytest.raises(Refused) as refused:
            job(*arguments)
        assert message in str(refused.value)

    def test_the_bounds_themselves_are_taken(self, job: Resolve):
        assert job("--overlap=29").reader.limits.overlap == 29
        # 100 - 64 - 3 special tokens leave room for 33.
        assert job("--max_length=100", "--overlap=32").reader.limits.overlap == 32


class TestAudit:
    @pytest.fixture
    def golds(self, tmp_path: Path) -> Path:
        table = examples(3).append_column(
            "answers", pa.array([{"text": ["Ada"], "answer_start": [22]}] * 3)
        )
        return write_input(
            tmp_path / "golds.parquet", table.append_column("source", pa.array(["a", "b", "c"]))
        )

    def test_stages_and_their_folders(self, job: Resolve, golds: Path, tmp_path: Path):
        assert job(f"--input={golds}", stage="audit").outputs == (("audit", f"{tmp_path}/out"),)
        both = job(f"--input={golds}", "--audit")
        assert both.outputs == (("audit", f"{tmp_path}/out/audit"), ("annotate", f"{tmp_path}/out"))

    def test_both_stages_take_the_dtype_of_the_run_that_is_there(
        self, job: Resolve, golds: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """The audit's own folder has no run yet."""
        monkeypatch.setattr("model.reading.reader.bfloat16_is_faster", lambda _: True)
        claim(job(f"--input={golds}", "--device=cpu"), overwrite=False)
        monkeypatch.setattr("model.reading.reader.bfloat16_is_faster", lambda _: False)
        both = job(f"--input={golds}", "--device=cpu", "--audit")
        assert [both.configuration_of(stage)["dtype"] for stage in both.stages] == ["bfloat16"] * 2
        assert claim(both, overwrite=False) is True

    def test_an_audit_beside_annotate_is_the_audit_alone(self, job: Resolve, golds: Path):
        alone, beside = job(f"--input={golds}", stage="audit"), job(f"--input={golds}", "--audit")
        assert alone.configuration_of("audit") == beside.configuration_of("audit")
        assert job(f"--input={golds}").configuration_of("annotate") == beside.configuration_of(
            "annotate"
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ("--answers_column=golds",),
                "--answers_column=golds: {golds} has the columns id, question, context, answers",
            ),
            (
                ("--answers_column=question",),
                "--answers_column=question: {golds}: it is string, not struct<text: list<string>",
            ),
            (("--slice_by=source,genre",), "--slice_by: {golds} has no column 'genre'"),
        ],
    )
    def test_what_an_audit_needs_is_named(
        self, job: Resolve, golds: Path, arguments: tuple[str, ...], message: str
    ):
        with pytest.raises(Refused) as refused:
            job(f"--input={golds}", *arguments, stage="audit")
        assert message.format(golds=golds) in str(refused.value)
        assert job(f"--input={golds}").stages == ("annotate",)  # annotate does not read them
