"""What may choose between trials beside accuracy: equal to scikit-learn, in every place that chooses."""

from __future__ import annotations

import dataclasses
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cifar_hpc.collect.comparison import compare_with_best
from cifar_hpc.collect.diagnosis import diagnose
from cifar_hpc.collect.leaderboard import Leaderboard, make_leaderboard
from cifar_hpc.collect.predictions import SplitPredictions, read_predictions
from cifar_hpc.collect.scan import scan
from cifar_hpc.config import metrics
from cifar_hpc.config.registry import OBJECTIVES, measured_objectives
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import SpecError
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record, write_record
from cifar_hpc.report.tables import leaderboard_columns
from cifar_hpc.spec.keys import TRIAL_KEYS
from cifar_hpc.spec.load import load_spec, spec_of
from cifar_hpc.train.balance import weights_of_classes
from cifar_hpc.train.micro_batches import MicroBatches
from cifar_hpc.train.steps import epoch_order
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers


def drawn(seed: int, n: int = 60, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), rng.choice(k, n - k, p=[0.6, 0.2, 0.15, 0.05][:k] if k == 4 else None)])
    return rng.normal(size=(n, k)) + 1.5 * np.eye(k)[labels] * (rng.random((n, 1)) < 0.6), labels


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 4]))
def test_every_metric_is_scikit_learns(seed, k):
    from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

    logits, labels = drawn(seed, k=k)
    taken, shares = logits.argmax(1), torch.tensor(logits).softmax(1).numpy()
    assume(np.diff(np.sort(np.log(shares / (1 - shares)), axis=0), axis=0).min() > 1e-5)  # nearer ones are equal here
    assert metrics.balanced_acc(logits, labels) == pytest.approx(balanced_accuracy_score(labels, taken))
    assert metrics.macro_f1(logits, labels) == pytest.approx(f1_score(labels, taken, average="macro", zero_division=0))
    theirs = roc_auc_score(labels, shares if k > 2 else shares[:, 1], multi_class="ovr", average="macro")
    assert metrics.macro_auroc(logits, labels) == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(3))
def test_the_auroc_of_equal_votes_counts_them_as_equal_and_survives_their_storage(seed):
    """Rounding tells neighbours' equal votes apart: their AUROC was some percent off, and off again as stored in float16."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    labels, votes = rng.integers(0, 10, 90), np.zeros((90, 10))
    for image, label in enumerate(labels):
        np.add.at(votes[image], [*rng.integers(0, 10, 6), label, label], 1)
    logits = np.log((votes + 0.1) / 9).astype(np.float32)
    found = metrics.macro_auroc(logits, labels)
    assert found == pytest.approx(roc_auc_score(labels, votes / 8, multi_class="ovr"))
    assert metrics.auroc_counts(logits, labels).mean() == pytest.approx(found)
    stored = logits.astype(np.float16).astype(np.float32)
    least, most = metrics.auroc_between(stored, labels, 2.0**-11 * np.abs(stored).max(1))
    assert least <= found <= most < least + 0.1


def neighbours_board(layout: Layout) -> Leaderboard:
    """Two configurations of nearest neighbours, three seeds each, ranked by macro AUROC."""
    configs = [
        digits_config(arch="linear", classifier="knn", knn_k=k, seed=seed, objective="macro_auroc", epochs=1)
        for k in (5, 25)
        for seed in range(3)
    ]
    run_job(job_of(*configs), layout, executor="inline")
    return make_leaderboard(scan(layout))


def test_neighbours_auroc_is_tested_by_what_their_number_was_measured_of(tmp_path):
    """The test read float16 logits, in which equal votes are unequal: another number than the one that ranked."""
    layout = Layout(tmp_path)
    board = neighbours_board(layout)
    assert board.objective == "macro_auroc"
    first, second = board.measured
    found = compare_with_best(board, layout).differences[second.point_id]
    assert found.difference == pytest.approx(first.score.mean - second.score.mean, abs=1e-6)
    for row in board.measured:
        for trial in row.trials:
            read = read_predictions(layout.trial(trial.trial_id), "val")
            assert read.counts.mean() == pytest.approx(trial.metric("macro_auroc"), abs=1e-6)
            file = layout.trial(trial.trial_id).predictions  # as an older version left it
            arrays = {key: value for key, value in np.load(file).items() if not key.endswith("_counts")}
            np.savez(file.with_suffix(""), **arrays)
    older = compare_with_best(board, layout)
    assert not older.differences
    assert older.untested[second.point_id] == "predictions do not say what each image counts for macro AUROC"


def test_logits_that_leave_no_doubt_are_as_certain_as_scikit_learn_has_them():
    from sklearn.metrics import roc_auc_score

    logits, labels = drawn(1, n=300)
    logits = 300 * logits
    shares = torch.tensor(logits).softmax(1).numpy()
    assert metrics.macro_auroc(logits, labels) == pytest.approx(roc_auc_score(labels, shares, multi_class="ovr"), abs=1e-3)
    assert metrics.macro_auroc(logits * np.inf, labels) is None


@pytest.mark.parametrize("name", measured_objectives())
def test_what_the_images_count_has_the_metric_as_its_mean_and_the_jackknifes_spread(name):
    logits, labels = drawn(3, n=200)
    measure, counts = (
        getattr(metrics, target.partition(":")[2]) for target in (OBJECTIVES[name].measure, OBJECTIVES[name].counts)
    )
    found = counts(logits, labels)
    assert found.mean() == pytest.approx(measure(logits, labels))
    jackknife = metrics.jackknife_counts(measure, logits, labels)
    assert jackknife.mean() == pytest.approx(measure(logits, labels))
    assert found.std() == pytest.approx(jackknife.std(), rel=0.1) or name == "balanced_acc"


def test_precision_recall_f1_and_support_by_class_are_scikit_learns():
    from sklearn.metrics import precision_recall_fscore_support

    logits, labels = drawn(5)
    found = diagnose(SplitPredictions(logits.astype(np.float32), labels, None), list("abcd")).scores
    theirs = precision_recall_fscore_support(labels, logits.astype(np.float32).argmax(1), zero_division=0)
    ours = [((s.precision or 0.0), s.recall, s.f1, s.images) for s in found.values()]
    assert np.allclose(np.array(ours), np.array(theirs).T)


SPEC = (
    "name: uneven\ndataset: {name: digits, train_size: 150, val_frac: 0.4}\n"
    "base: {arch: linear, epochs: 3, batch_size: 32, lr: 0.05, optimizer: adamw}\n"
    "grid: {weight_decay: [0.0, 0.1]}\nseeds: 3\nobjective: {metric: macro_f1}\n"
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Layout, list[TrialConfig]]:
    layout = Layout(tmp_path_factory.mktemp("uneven"))
    spec = spec_of(SPEC, layout.root / "x.yaml")
    layout.sweep("uneven").plan.parent.mkdir(parents=True)
    write_record(layout.sweep("uneven").plan, plan_record(make_plan(spec, share=True)))
    run_job(job_of(*(trial.config for trial in spec.trials)), layout, executor="inline")
    return layout, [trial.config for trial in spec.trials]


def test_the_objective_chooses_the_epoch_ranks_the_points_and_is_tested(swept):
    from sklearn.metrics import f1_score

    layout, configs = swept
    for config in configs:
        result = read_record(layout.trial(config.trial_id).result, TrialResult)
        values = [epoch.objective for epoch in result.curves]
        assert result.best_epoch == 1 + int(np.argmax(values))
        found = read_predictions(layout.trial(config.trial_id), "val")
        theirs = f1_score(found.labels, found.logits.argmax(1), average="macro", zero_division=0)
        assert result.val.more["macro_f1"] == pytest.approx(theirs, abs=1e-6) == values[result.best_epoch - 1]
        assert set(result.test.more) == set(measured_objectives())
    board = make_leaderboard(scan(layout, ["uneven"]))
    assert board.objective == "macro_f1" and board.rows[0].score.mean >= board.rows[1].score.mean
    assert board.rows[0].test_score is not None and board.rows[0].trials[0].metric("test_macro_f1") is not None
    assert [column.title for column in leaderboard_columns(board)][2:5] == ["val macro F1 %", "test macro F1 %", "val acc %"]
    comparison = compare_with_best(board, layout)
    assert comparison.differences[board.rows[1].point_id].difference == pytest.approx(
        board.rows[0].score.mean - board.rows[1].score.mean, abs=1e-6
    )


def test_a_plugins_objective_chooses_and_enters_the_id_also_in_the_manner_of_val_acc(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from cifar_hpc.config.plugins import register_objective\n"
        "def worst(logits_NK, labels_N):\n"
        "    right = logits_NK.argmax(1) == labels_N\n"
        "    return min(right[labels_N == k].mean() for k in set(labels_N.tolist()))\n"
        "register_objective('val_recall', worst, noun='worst recall')\n"
    )
    text = SPEC.replace("macro_f1", "val_recall").replace("seeds: 3", "plugins: [mine.py]")
    (tmp_path / "x.yaml").write_text(text)
    spec = load_spec(tmp_path / "x.yaml")
    config = spec.trials[0].config
    assert [source.part for source in config.sources] == ["objective.metric"]
    layout = Layout(tmp_path / "results")
    run_job(job_of(config), layout, executor="inline")
    result = read_record(layout.trial(config.trial_id).result, TrialResult)
    assert result.val.more["val_recall"] == max(epoch.objective for epoch in result.curves)


def test_class_weights_are_scikit_learns_and_the_step_is_a_plain_loops(tmp_path):
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0] * 30 + [1] * 8 + [2] * 2)
    config = digits_config(class_weights="balanced")
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert weights_of_classes(config, labels, list("abc")).numpy() == pytest.approx(theirs, rel=1e-6)
    named = dataclasses.replace(config, class_weights=(("b", 2.0),))
    assert weights_of_classes(named, labels, list("abc")).tolist() == [1.0, 2.0, 1.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "mixed"])
def test_each_part_of_a_target_counts_by_its_own_class_as_the_schema_says(smoothing, soft):
    net, weight_K = torch.nn.Linear(3, 4), torch.tensor([1.0, 5.0, 1.0, 1.0])
    config = digits_config(class_weights=(("1", 5.0),), label_smoothing=smoothing)
    batches = MicroBatches(config, BlockModel(["fc"], [net]), net.parameters(), torch.float32)
    batches.class_weight_K = weight_K
    x, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 1, 0])
    share_NK = torch.nn.functional.one_hot(labels, 4).float()
    if soft:
        share_NK = 0.7 * share_NK + 0.3 * share_NK.flip(0)
    told, _ = batches.passes(x, share_NK if soft else labels, 0, 6, None)
    target_NK = (1 - smoothing) * share_NK + smoothing / 4
    assert told.item() == pytest.approx(-(weight_K * target_NK * net(x).log_softmax(1)).sum(1).mean().item(), rel=1e-5)
    assert "several classes each part counts by its own" in TRIAL_KEYS["class_weights"].doc


@pytest.mark.parametrize("changes", [{"class_weights": "balanced"}, {"sampler": "balanced"}], ids=str)
def test_balanced_training_is_the_same_alone_and_in_company(tmp_path, changes):
    configs = [digits_config(arch="linear", lr=lr, **changes) for lr in (0.01, 0.02)]
    plain = digits_config(arch="linear", lr=0.01)
    together, alone = Layout(tmp_path / "a"), Layout(tmp_path / "b")
    run_job(job_of(*configs, together=True), together, executor="inline")
    run_job(job_of(configs[0], plain), alone, executor="inline")
    of = [numbers(read_record(layout.trial(configs[0].trial_id).result, TrialResult)) for layout in (together, alone)]
    assert of[0] == of[1] != numbers(read_record(alone.trial(plain.trial_id).result, TrialResult))


def test_a_weighted_epoch_equals_twenty_lines_of_torch(tmp_path):
    """Plain SGD on the pixels of digits, weighted by class."""
    from cifar_hpc.data.dataset import load_dataset_of
    from cifar_hpc.models.zoo import build_model

    config = digits_config(
        arch="linear", class_weights="balanced", epochs=1, schedule="constant", momentum=0.0, weight_decay=0.0
    )
    layout = Layout(tmp_path)
    run_job(job_of(config), layout, executor="inline")
    data = load_dataset_of(config, tmp_path)
    x = (data.train.images_NCHW.float() / 255 - data.mean[0]) / data.std[0]
    y, net = data.train.labels_N, build_model(config, 10, 1)
    weight = torch.tensor([len(y) / (10 * float((y == k).sum())) for k in range(10)])
    order, steps = epoch_order(config, y, 1), math.ceil(len(y) / 64)
    for index in torch.tensor_split(order, steps):
        loss = torch.nn.functional.cross_entropy(net.forward_blocks(x[index], 0, 1), y[index], reduction="none")
        net.zero_grad()
        (loss * weight[y[index]]).mean().backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.05 * parameter.grad
    xv = (data.val.images_NCHW.float() / 255 - data.mean[0]) / data.std[0]
    acc = (net.forward_blocks(xv, 0, 1).argmax(1) == data.val.labels_N).double().mean().item()
    assert read_record(layout.trial(config.trial_id).result, TrialResult).val.acc == pytest.approx(acc, abs=0.013)


def test_the_balanced_sampler_draws_every_class_alike_often():
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    config = dataclasses.replace(digits_config(), sampler="balanced")
    taken = torch.cat([torch.bincount(labels[epoch_order(config, labels, epoch)], minlength=3)[None] for epoch in range(1, 21)])
    assert (taken.sum(0) / taken.sum()).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    assert torch.equal(epoch_order(config, labels, 3), epoch_order(config, labels, 3))


def test_a_class_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(SpecError, match=r"the class 'catt'.*Did you mean 'cat'"):
        spec_of("name: x\ndataset: cifar10\nbase: {arch: linear, class_weights: {catt: 2}}\n", tmp_path / "x.yaml")
    spec = spec_of(
        "name: x\ndataset: cifar10\nbase: {arch: linear}\ngrid: {class_weights: [null, balanced, {cat: 2}]}\n", tmp_path
    )
    assert [trial.axes["class_weights"] for trial in spec.trials] == [None, "balanced", "cat:2"]
    assert [TrialConfig.from_json(t.config.to_json()) for t in spec.trials] == [t.config for t in spec.trials]


@pytest.mark.parametrize("name", ["balanced_acc", "macro_f1", "macro_auroc"])
def test_no_epoch_is_better_by_the_order_in_which_shares_are_added(name):
    """Equal fractions are equal numbers, whichever classes they are of, and each is the number nearest to it."""
    rng, measure = np.random.default_rng(0), getattr(metrics, name)
    labels = np.repeat(np.arange(4), [12, 9, 6, 3])
    for _ in range(200):
        logits = np.log(rng.permuted(np.tile([0.7, 0.1, 0.15, 0.05], (30, 1)), axis=1))
        shift, order = rng.permutation(4), rng.permutation(30)
        renamed = np.argsort(shift)[labels]
        assert measure(logits, labels) == measure(logits[:, shift][order], renamed[order])
    if name == "balanced_acc":
        for right in itertools.product(range(13), range(10), range(7), range(4)):
            hits = np.concatenate([np.arange(n) < k for n, k in zip([12, 9, 6, 3], right, strict=True)])
            taken = np.where(hits, labels, (labels + 1) % 4)
            exact = sum(Fraction(k, n) for k, n in zip(right, [12, 9, 6, 3], strict=True)) / 4
            assert measure(np.eye(4)[taken], labels) == float(exact)


def test_a_balanced_sampler_draws_each_image_by_itself_as_its_key_says():
    labels_N, config = torch.tensor([0] * 90 + [1] * 10), digits_config(sampler="balanced")
    counts = torch.stack([torch.bincount(labels_N[epoch_order(config, labels_N, epoch)]) for epoch in range(1, 201)])
    rare = counts[:, 1].double()
    assert (counts.sum(1) == 100).all() and abs(rare.mean() - 50) < 1.5 and 3.5 < rare.std() < 6.5  # binomial: 5
    assert "one by one and of every class with the same chance" in TRIAL_KEYS["sampler"].doc
