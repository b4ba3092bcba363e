"""Cross-validation: every labelled image is held out once, and a fold's numbers are those of a plain trial on its images."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.image_groups import image_groups, labelled_paths
from cifar_hpc.config.image_table import list_table
from cifar_hpc.config.normalize import normalise, refitted
from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.config.sources import find_source
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.dataset import Folds, load_dataset_of, trainval_of
from cifar_hpc.data.splits import deal
from cifar_hpc.errors import Interrupted, SpecError, UnusableError
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.planning.cohorts import group_cohorts
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.spec.load import load_spec, spec_of
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
    layout, seen = Layout(tmp_path), []
    configs = in_folds(digits_config(dataset=DatasetConfig(name="digits", train_size=120), arch="linear", epochs=1))

    def look(trial_id, epoch):
        states = [read_state(layout.trial(config.trial_id), config.trial_id) for config in configs]
        seen.append([state.waits for state in states])
        assert all(("waits for others" in state.reason) is state.waits for state in states)
        return True

    run_job(job_of(*configs, together=True), layout, executor="inline", on_epoch=look)
    assert seen == [[False, True, True], [False, False, True], [False, False, False]]


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


@pytest.mark.parametrize(
    "text, found",
    [
        ("folds: 1\n", "at least 2 and at most 100"),
        ("folds: {n: 5, by: patient}\n", "groups of digits"),
        ("folds: 5\nsearch: {num_points: 2, scheduler: asha}\n", "folds beside scheduler asha.*scheduler: halving"),
        ("folds: {m: 5}\n", "'m'"),
    ],
)
def test_folds_that_cannot_be_are_refused_with_their_line(tmp_path, text, found):
    with pytest.raises(SpecError, match=found):
        spec_of(SPEC + text, tmp_path / "x.yaml")


def test_images_of_one_animal_stay_together_by_folder_name_or_column(tmp_path):
    from cifar_hpc.config.image_folder import list_folder

    for name in ("cat/rex_1.png", "cat/rex_2.png", "cat/tom-1.png", "dog/a/1.png", "dog/a/2.png", "dog/b/1.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    assert image_groups(list_folder(tmp_path / "in"), "folder-prefix") == ("rex", "rex", "tom", "a", "a", "b")
    table = tmp_path / "labels.csv"
    table.write_text("file,label,Owner\ncat/rex_1.png,cat,ann\ncat/tom-1.png,cat,bob\ndog/b/1.png,dog,ann\n")
    assert image_groups(list_table(tmp_path / "in", table), "owner") == ("ann", "bob", "ann")


def grouped(folder, files: str, labels: str) -> dict[str, str]:
    """Of empty files, as a table with these labels has them."""
    for name in files.split():
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).touch()
    rows = [f"{name},{label}" for name, label in zip(files.split(), labels.split(), strict=True)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]))
    listing = list_table(folder / "in", folder / "labels.csv")
    names = [path.relative_to(folder / "in").as_posix() for path, _ in labelled_paths(listing)]
    return dict(zip(names, image_groups(listing, "folder-prefix"), strict=True))


FILES = "train/cat/rex_1.png train/cat/rex_2.png train/cat/tom_1.png train/dog/a/1.png train/dog/a/2.png train/fox/rex_3.png"
PATIENTS = "p1/1.png p1/2.png p2/1.png p2/2.png"


@pytest.mark.parametrize(
    "files, labels, groups",
    [
        (FILES, "cat cat cat dog dog fox", "rex rex tom a a rex"),
        (FILES, "dog cat fox dog fox fox", "rex rex tom a a rex"),
        (FILES, "dog cat cat dog cat dog", "rex rex tom a a rex"),  # no image is a fox any more
        (FILES.replace("train/", "one/"), "dog cat cat dog dog dog", "rex rex tom a a rex"),
        ("imgs/rex_1.jpg imgs/rex_2.jpg imgs/tom_1.jpg", "cat dog dog", "rex rex tom"),
        ("train/rex_1.jpg val/rex_2.jpg train/tom_1.jpg", "cat dog dog", "rex rex tom"),
        (PATIENTS, "ill well well ill", "p1 p1 p2 p2"),
    ],
)
def test_a_label_of_a_table_takes_no_image_out_of_its_group(tmp_path, files, labels, groups):
    assert grouped(tmp_path, files, labels) == dict(zip(files.split(), groups.split(), strict=True))


def test_groups_that_keep_nothing_together_are_told(tmp_path):
    """Names without a _ or - before their number: each image is a group of its own, and nobody is protected."""
    for name in ("cat/rex1.png", "cat/rex2.png", "cat/kim1.png", "dog/tom1.png", "dog/tom2.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    text = f"name: x\ndataset: {{folder: {tmp_path}/in}}\n"
    text += "base: {arch: linear, image_size: 8}\nfolds: {n: 2, by: folder-prefix}\n"
    told = "folds.by folder-prefix keeps nothing together: each of the 5 images is a group of its own"
    assert any(told in note for note in spec_of(text, tmp_path / "x.yaml").findings)
    (tmp_path / "in/cat/rex1.png").rename(tmp_path / "in/cat/rex_1.png")
    (tmp_path / "in/cat/rex2.png").rename(tmp_path / "in/cat/rex_2.png")
    assert not any(told in note for note in spec_of(text, tmp_path / "x.yaml").findings)


OF_FOUR = "4 images: a fold would be empty, or hold all images of a class"
UNSPLITTABLE = [
    ("a/1 a/2 b/1 b/2", "folds: 5", f":4: folds: 5 of {OF_FOUR}; 4 can be dealt."),
    ("a/1 a/2 a/3 b/1", "folds: 3", ":4: folds: class b has one image; each class needs two images: one is trained on"),
    ("train/a/1 train/a/2 train/b/1 val/b/2", "folds: 3", ""),  # which joins train/
    ("a/r_1 a/r_2 a/t_1 b/s_1 b/s_2", "folds: {n: 2, by: folder-prefix}", "class b has one group; each class needs two groups"),
    ("a/q_1 a/r_1 b/s_1 b/t_1", "folds: {n: 3, by: folder-prefix}", "folds: 3 of 4 groups: a fold would be empty"),
    ("a/q_1 a/r_1 b/s_1 b/t_1", "folds: {n: 2, by: folder-prefix, repeats: 2}", ""),
    (" ".join(f"a/{n}" for n in range(40)) + " b/1 b/2", "dataset.train_size: 8", "0.1 where a class has one image"),
    (" ".join(f"a/{n}" for n in range(40)) + " b/1 b/2", "dataset.train_size: 8\nfolds: 2", "class b has one image"),
]


@pytest.mark.parametrize("files, keys, told", UNSPLITTABLE)
def test_a_split_that_the_worker_cannot_make_is_refused_before_anything_trains(tmp_path, files, keys, told):
    for number, name in enumerate(files.split()):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"in/{name}.png")
    spec = tmp_path / "x.yaml"
    size = "".join(line.partition(".")[2] for line in keys.splitlines() if line.startswith("dataset."))
    rest = "\n".join(line for line in keys.splitlines() if not line.startswith("dataset."))
    spec.write_text(
        f"name: x\ndataset: {{folder: in{', ' * bool(size)}{size}}}\nbase: {{arch: linear, image_size: 8}}\n{rest}\n"
    )
    for command in (["data", str(spec)], ["sweep", str(spec), "--dry-run"]):
        done = CliRunner().invoke(app, command, env={"CIFAR_HPC_RESULTS": str(tmp_path / "results")})
        assert (done.exit_code, told in done.output) == (2 if told else 0, True), done.output
    if not told:
        for trial in spec_of(spec.read_text().replace("in", f"{tmp_path}/in", 1), spec).trials:
            assert len(load_dataset_of(trial.config, tmp_path).val.labels_N)


@pytest.mark.parametrize(
    "text, told",
    [
        ("{name: digits, train_size: 20}\nfolds: 25", "folds: 25 of 20 images: a fold would be empty.*20 can be dealt"),
        ("'own.py:load'\nfolds: 5", "folds: 5 of 4 images.*4 can be dealt"),
        ("'own.py:load'\nfolds: 4", ""),
        ("{name: 'own.py:load', args: {n: 3}}", "val_frac: 0.1 where a class has one image"),
        ("{name: 'own.py:load', args: {n: 2}}", "classes: no training image of b in own.py:load"),
    ],
)
def test_sets_that_are_no_folder_are_split_by_the_same_rule(tmp_path, text, told):
    (tmp_path / "own.py").write_text(
        "import numpy as np\n\n\ndef load(n=4):\n    labels = np.array([0, 0, 1, 1])[:n]\n"
        "    return {'train': (np.zeros((n, 1, 8, 8), np.uint8), labels), 'classes': ['a', 'b']}\n"
    )
    (tmp_path / "x.yaml").write_text(f"name: x\ndataset: {text}\nbase: {{arch: linear}}\n")
    if not told:
        assert len(load_spec(tmp_path / "x.yaml").trials) == 4
        return
    with pytest.raises(SpecError, match=told):
        load_spec(tmp_path / "x.yaml")
