"""Cross-validation: every labelled image is held out once, and a fold's numbers are those of a plain trial on its images."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.normalize import normalise, refitted
from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.config.sources import find_source
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.dataset import Folds, load_dataset_of, trainval_of
from cifar_hpc.data.splits import deal
from cifar_hpc.errors import Interrupted, UnusableError
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.planning.cohorts import group_cohorts
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record, utc_now
from cifar_hpc.spec.load import spec_of
from cifar_hpc.train.features import Feed
from cifar_hpc.worker import inputs
from cifar_hpc.worker.attempt import Attempt
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers

LABELS = np.repeat(np.arange(4), [31, 17, 9, 5])


def result_of(layout: Layout, config: TrialConfig) -> TrialResult:
    return read_record(layout.trial(config.trial_id).result, TrialResult)


def in_folds(config: TrialConfig, n: int = 3) -> list[TrialConfig]:
    dataset = dataclasses.replace(config.dataset, val_frac=0.1, folds=n)
    return [normalise(dataclasses.replace(config, dataset=dataclasses.replace(dataset, fold=f))) for f in range(1, n + 1)]


def test_folds_that_wait_for_others_of_their_cohort_are_told_as_waiting(tmp_path):
    layout, seen, since, began = Layout(tmp_path), [], [], utc_now()
    configs = in_folds(digits_config(dataset=DatasetConfig(name="digits", train_size=120), arch="linear", epochs=1))

    def look(trial_id, epoch):
        states = [read_state(layout.trial(config.trial_id), config.trial_id) for config in configs]
        seen.append([state.waits for state in states])
        assert all(("waits for others" in state.reason) is state.waits for state in states)
        assert {state.claim.shared_by for state in states if state.claim} == {1}, "what is lost with one is its own"
        since.extend(state.claim.claimed_at for state in states if state.claim and not state.waits)
        return True

    run_job(job_of(*configs, together=True), layout, executor="inline", on_epoch=look)
    assert seen == [[False, True, True], [False, False, True], [False, False, False]]
    assert began < since[0] < since[1] < since[2], "each is charged from when it began, not from when the first one did"


def test_what_a_launcher_sends_to_train_again_is_told_as_training_whoever_let_it_wait(tmp_path):
    config = digits_config()
    of_launcher = Attempt.begin(config, Layout(tmp_path), "s/job-0001")
    of_rank = dataclasses.replace(of_launcher)
    for attempt, waits in ((of_rank, True), (of_launcher, False)):
        attempt.let_wait(waits)
        assert read_state(of_rank.files, config.trial_id).waits is waits


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A weights file of simple_cnn, from which trunks are made."""
    layout = Layout(tmp_path_factory.mktemp("parent"))
    config = digits_config(keep="weights", epochs=1)
    run_job(job_of(config), layout, executor="inline")
    return str(layout.trial(config.trial_id).weights)


def probes(weights: str, **changes) -> list[TrialConfig]:
    dataset = DatasetConfig(name="digits", train_size=120)
    return in_folds(
        digits_config(**{"dataset": dataset, "weights": weights, "weights_fingerprint": "f" * 64, "freeze": "all", **changes})
    )


def test_every_image_is_held_out_once_and_every_fold_has_the_classes_proportions():
    part = deal(LABELS, 5, 0, 0)
    sizes = np.bincount(part)
    assert sizes.max() - sizes.min() <= 1
    for label, count in enumerate(np.bincount(LABELS)):
        counts = np.bincount(part[label == LABELS], minlength=5)
        assert counts.sum() == count and counts.max() - counts.min() <= 1
    assert not np.array_equal(part, deal(LABELS, 5, 0, 1)) and not np.array_equal(part, deal(LABELS, 5, 1, 0))


def test_images_of_one_group_are_held_out_together_about_as_evenly_as_sklearn_deals_them():
    from sklearn.model_selection import StratifiedGroupKFold

    rng = np.random.default_rng(0)
    groups = rng.integers(0, 40, 400)
    labels = (groups % 3 + (rng.random(400) < 0.1)) % 3
    part = deal(labels, 5, 0, 0, groups)
    assert all(len(set(part[groups == group])) == 1 for group in groups)

    def unevenness(parts):
        return sum(np.std([np.sum((parts == p) & (labels == k)) / np.sum(labels == k) for p in range(5)]) for k in range(3))

    theirs = np.empty(400, int)
    for number, (_, held) in enumerate(StratifiedGroupKFold(5).split(labels, labels, groups)):
        theirs[held] = number
    assert unevenness(part) <= 1.25 * unevenness(theirs)
    with pytest.raises(UnusableError, match="class number 0 has one group; each class needs two groups"):
        deal(np.repeat([0, 1], 20), 2, 0, 0, np.repeat([0, 1], 20))


def test_the_fold_is_part_of_the_id_and_no_part_of_the_point():
    one, two, three = in_folds(digits_config())
    assert len({one.trial_id, two.trial_id, three.trial_id}) == 3 and one.point_id == two.point_id == three.point_id
    assert one.point_id != digits_config().point_id
    assert TrialConfig.from_json(one.to_json()) == one
    assert refitted(one, 2).trial_id == refitted(two, 2).trial_id


def test_folds_of_pretrained_trunks_train_together_and_others_alone(weights):
    configs = probes(weights)
    assert [len(cohort.trials) for cohort in group_cohorts(configs, None)] == [3]
    assert [len(cohort.trials) for cohort in group_cohorts(probes(weights, augment="flip"), None)] == [1, 1, 1]
    random = in_folds(digits_config(freeze="all"))
    assert [len(cohort.trials) for cohort in group_cohorts(random, None)] == [1, 1, 1]


@pytest.fixture(scope="module")
def weights_of_others(weights, tmp_path_factory) -> str:
    """The same trunk with a classifier of fewer classes, so that each fold begins with one of its own."""
    state = load_file(weights)
    head = [key for key, tensor in state.items() if tensor.shape[:1] == (10,)]
    path = tmp_path_factory.mktemp("others") / "seven.safetensors"
    save_file({key: tensor[:7].clone() if key in head else tensor for key, tensor in state.items()}, path)
    return str(path)


@pytest.mark.parametrize("changes", [{"freeze": 1}, {"classifier": "knn"}, {"weights": "of others"}], ids=str)
def test_a_fold_is_the_same_alone_in_company_and_after_an_interruption(tmp_path, weights, weights_of_others, changes):
    if "weights" in changes:
        weights, changes = weights_of_others, {}
    configs = [*probes(weights, **changes), *probes(weights, **{**changes, "lr": 0.02})]
    configs = list({config.trial_id: config for config in configs}.values())
    together, alone, broken = Layout(tmp_path / "a"), Layout(tmp_path / "b"), Layout(tmp_path / "c")
    run_job(job_of(*configs, together=True), together, executor="inline")
    for config in (configs[0], configs[-1]):
        run_job(job_of(config), alone, executor="inline")
        assert numbers(result_of(together, config)) == numbers(result_of(alone, config))
    calls = iter(range(100))
    try:
        run_job(job_of(*configs, together=True), broken, executor="inline", interrupted=lambda: next(calls) == 9)
    except Interrupted:
        run_job(job_of(*configs, together=True), broken, executor="inline")
    for config in configs:
        assert numbers(result_of(broken, config)) == numbers(result_of(together, config))


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_folds_of_drawn_trunks_that_a_search_judges_together_are_the_same_alone(tmp_path, stem):
    """Halving has the folds of a configuration in one cohort also where each draws a trunk, or its stem, itself."""
    dataset = DatasetConfig(name="digits", train_size=60)
    arch = {"arch": "resnet18", "stem": "cifar"} if stem == "cifar" else {}
    configs = in_folds(digits_config(dataset=dataset, freeze=1, epochs=1, **arch), 2)
    together, alone = Layout(tmp_path / "a"), Layout(tmp_path / "b")
    run_job(job_of(*configs, together=True), together, executor="inline")
    run_job(job_of(*configs), alone, executor="inline")
    for config in configs:
        assert numbers(result_of(together, config)) == numbers(result_of(alone, config))


def test_a_folds_numbers_are_those_of_a_plain_trial_on_its_images(tmp_path, weights):
    _, config, _ = probes(weights)
    folds = Folds(config.dataset, load_dataset_of(trainval_of(config), tmp_path))
    part = folds.part(config.dataset)
    arrays = {
        f"{name}_{key}": value.numpy()
        for name, split in (("train", part.train), ("val", part.val), ("test", part.test))
        for key, value in (("images", split.images(np.arange(len(split.labels_N)))), ("labels", split.labels_N))
    }
    np.savez(tmp_path / "fold.npz", **arrays)
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        f"def load():\n    a = np.load({str(tmp_path / 'fold.npz')!r})\n"
        "    return {k: (a[k + '_images'], a[k + '_labels']) for k in ('train', 'val', 'test')}\n"
    )
    source = find_source("dataset", "own.py:load", tmp_path)
    plain = dataclasses.replace(
        config,
        dataset=dataclasses.replace(
            config.dataset, name=source.name, train_size=None, folds=None, fold=None, side=8, channels=1, val_frac=0.1
        ),
        sources=(source,),
        seed=stream_seed(0, "fold", 2),
    )
    layout = Layout(tmp_path / "results")
    run_job(job_of(config, plain), layout, executor="inline")
    ours, theirs = numbers(result_of(layout, config)), numbers(result_of(layout, plain))
    assert ours == theirs


def test_out_of_fold_accuracy_of_nearest_neighbours_is_scikit_learns(tmp_path):
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    configs = in_folds(digits_config(arch="linear", classifier="knn"))
    layout = Layout(tmp_path)
    run_job(job_of(*configs), layout, executor="inline")
    whole = load_dataset_of(trainval_of(configs[0]), tmp_path)
    folds = Folds(configs[0].dataset, whole)
    fold_N = np.empty(len(whole.train.labels_N), int)
    for config in configs:
        fold_N[folds.rows(config.dataset)[1]] = config.dataset.fold
    x, y = whole.train.images_NCHW.flatten(1).numpy() / 255.0, whole.train.labels_N.numpy()
    found = cross_val_predict(make_pipeline(StandardScaler(), KNeighborsClassifier()), x, y, cv=PredefinedSplit(fold_N))
    right = sum(result_of(layout, config).val.acc * result_of(layout, config).val.n for config in configs)
    assert abs(right - np.sum(found == y)) <= 1, "a tie of votes may fall either way"


def test_the_trunk_runs_once_for_all_folds_and_weights_are_read_once_more_for_each_start(tmp_path, weights, monkeypatch):
    passed = []
    computed = Feed._compute

    def counting(self, chunks, depths):
        passed.append(len(self))
        computed(self, chunks, depths)

    def of_the_suffix(self, x, start, stop):
        assert start > 0, "the pictures of a trial's page are of the pass that there was"
        return forward_blocks(self, x, start, stop)

    forward_blocks = BlockModel.forward_blocks
    monkeypatch.setattr(Feed, "_compute", counting)
    monkeypatch.setattr(BlockModel, "forward_blocks", of_the_suffix)
    asked = Counter()

    def counted(name, function):
        return lambda *given, **named: asked.update([name]) or function(*given, **named)

    for name in ("normalisation", "build_model", "start_of", "weights_sha256"):  # each reads the file of weights whole
        monkeypatch.setattr(inputs, name, counted(name, getattr(inputs, name)))
    configs = probes(weights, keep="weights")
    run_job(job_of(*configs, together=True), Layout(tmp_path), executor="inline")
    assert asked == {"normalisation": 1, "start_of": 1, "weights_sha256": 1, "build_model": len(configs)}
    arrays = np.load(Layout(tmp_path).trial(configs[0].trial_id).predictions)
    assert len(arrays["features_middle"]) == len(arrays["features_last"]) == 40
    assert passed.count(120) == 1 and not [n for n in passed if n not in (120, 360)], "all images, then the test split"


SPEC = "name: x\ndataset: {name: digits, train_size: 100}\nbase: {arch: simple_cnn}\ngrid: {lr: [0.1, 0.2]}\n"


def test_a_search_samples_points_with_all_their_folds(tmp_path):
    search = spec_of(SPEC + "folds: 3\nsearch: {num_points: 2}\n", tmp_path / "x.yaml").search
    trials = search.space.trials({"lr": 1})
    assert search.trials_at_most == 6 and [trial.config.dataset.fold for trial in trials] == [1, 2, 3]
    assert len({trial.config.point_id for trial in trials}) == 1


def test_a_spec_with_folds_and_seeds_multiplies_them(tmp_path):
    spec = spec_of(SPEC + "seeds: 2\nfolds: {n: 3, repeats: 2}\n", tmp_path / "x.yaml")
    assert len(spec.trials) == 2 * 2 * 6 and len({trial.config.point_id for trial in spec.trials}) == 2
    assert {trial.axes["fold"] for trial in spec.trials} == set(range(1, 7))
    fewer = spec_of(SPEC + "seeds: 2\nfolds: 3\n", tmp_path / "x.yaml")
    assert {t.config.trial_id for t in fewer.trials} < {t.config.trial_id for t in spec.trials}, (
        "a repeat more trains what is new"
    )


def test_seeds_may_split_otherwise_and_still_are_one_point(tmp_path):
    spec = spec_of(SPEC.replace("100", "100, split_seed: seed") + "seeds: [3, 4]\n", tmp_path / "x.yaml")
    assert {trial.config.dataset.split_seed for trial in spec.trials} == {3, 4}
    assert len({trial.config.point_id for trial in spec.trials}) == 2
    plain = spec_of(SPEC.replace("100", "100, split_seed: 3") + "seeds: [3]\n", tmp_path / "x.yaml")
    assert {t.config.trial_id for t in plain.trials} < {t.config.trial_id for t in spec.trials}
