"""Data sets in memory: what is read, what is refused, and that nothing leaks or is dropped."""

import gzip
import hashlib
import os
import pickle
import re
import socket
import tarfile
from dataclasses import fields
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from fedtiny_lite.config import Config
from fedtiny_lite.data import datasets as data
from fedtiny_lite.data import sources
from fedtiny_lite.data.augmentation import augment
from fedtiny_lite.data.datasets import Dataset, Split, batches, distort, limit, load_dataset, public_split, to_float
from fedtiny_lite.data.partition import partition
from fedtiny_lite.data.vision import torchvision
from fedtiny_lite.federated.survey import normalisation, sums_of_pixels
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.settings import rules
from tests.helpers import seeded


def rng(seed=0):
    return np.random.default_rng(seed)


def numbered(labels):
    """A split whose i-th image is one pixel row that spells i, so that samples can be recognised."""
    index = torch.arange(len(labels))
    images = torch.stack([index // 256, index % 256], dim=1).to(torch.uint8).reshape(-1, 1, 1, 2)
    return Split(images, torch.tensor(labels))


def numbers(split):
    pixels = split.images.reshape(-1, 2).long()
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


# --- named data sets -------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_with_every_fifth_a_test_sample(tmp_path):
    from sklearn.datasets import load_digits

    raw = load_digits()
    digits = load_dataset("digits", tmp_path)
    assert digits.train.images.shape == (1437, 1, 8, 8)
    assert digits.test.images.shape == (360, 1, 8, 8)
    assert digits.test.labels.tolist() == raw.target[::5].tolist()
    assert digits.train.labels[:5].tolist() == raw.target[[1, 2, 3, 4, 6]].tolist()
    back = digits.test.images[:, 0].double() * 16 / 255
    assert torch.allclose(back, torch.tensor(raw.images[::5]), atol=16 / 255 / 2)
    assert digits.classes == tuple("0123456789")


def test_a_data_set_knows_no_statistics_of_its_pixels():
    """Those are the clients' to tell, and are the mean and the spread of all their images."""
    digits = load_dataset("digits")
    assert {field.name for field in fields(Dataset)} == {"name", "train", "test", "classes", "fingerprint"}
    pixels = digits.train.images.double() / 255
    parts = [sums_of_pixels(digits.train.take(part).images) for part in (slice(0, 100), slice(100, None))]
    found = normalisation(parts, len(digits.train), (1, 8, 8))
    assert found.mean == pytest.approx((float(pixels.mean()),), abs=1e-12)
    assert found.std == pytest.approx((float(pixels.std(correction=0)),), abs=1e-12)


def test_a_data_set_is_loaded_once(tmp_path):
    assert load_dataset("digits", tmp_path) is load_dataset("digits", tmp_path)


def test_fingerprint_is_the_hash_of_pixels_and_labels():
    digits = load_dataset("digits")
    parts = (digits.train.images, digits.train.labels, digits.test.images, digits.test.labels)
    digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts))
    assert digits.fingerprint == digest.hexdigest()[:16]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=f"'mnist': choose one of digits, {', '.join(sources.ARCHIVES)}, folder:"):
        load_dataset("mnist")


def test_data_lands_in_the_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    assert data.default_data_dir() == tmp_path.parent / "data"
    (tmp_path / "pyproject.toml").touch()
    assert data.default_data_dir() == tmp_path / "data"


# --- downloads: files small and made here, checksums patched to fit them ---------------------------------


def no_network(*arguments, **settings):
    raise URLError("no route to host")


FILES = {
    "cifar10": "cifar-10-python.tar.gz",
    "cifar100": "cifar-100-python.tar.gz",
    "svhn": "train_32x32.mat",
    "fashion_mnist": "FashionMNIST/raw/train-images-idx3-ubyte.gz",
}


@pytest.mark.parametrize("name", sources.ARCHIVES)
def test_a_published_data_set_is_named_where_a_reader_looks_for_it(name):
    """In the help of the setting, in the table of sources and terms, among the runs, and in the tests here."""
    pages = [(ROOT / place).read_text(encoding="utf-8") for place in ("data/README.md", "docs/runs.md")]
    assert name in FILES and all(f"`{name}`" in page for page in pages)
    [help] = [rule.metadata["help"] for rule in rules(Config) if rule.name == "dataset"]
    assert name in re.split(r"\W+", help)


@pytest.mark.parametrize("name", FILES)
def test_missing_and_no_network_names_the_file_and_the_remedy(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.utils, "download_url", no_network)
    path = tmp_path / FILES[name]
    with pytest.raises(FileNotFoundError, match=r"no route to host.*put the file there") as caught:
        load_dataset(name, tmp_path)
    assert path.name in str(caught.value)
    assert str(path.parent) in str(caught.value)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("name", FILES)
def test_wrong_bytes_name_the_file_and_say_delete(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.utils, "download_url", no_network)
    path = tmp_path / FILES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half a file")
    with pytest.raises(RuntimeError, match=r"corrupt.*delete it") as caught:
        load_dataset(name, tmp_path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"half a file"


def test_a_download_cut_short_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    def half(url, root, filename, md5):
        root.mkdir(exist_ok=True)
        (root / filename).write_bytes(b"half")
        raise URLError("reset by peer")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", half)
    with pytest.raises(FileNotFoundError, match="reset by peer"):
        load_dataset("svhn", tmp_path)
    assert not (tmp_path / "train_32x32.mat").exists()


def test_the_checksums_in_the_readme_are_those_torchvision_publishes():
    sets = torchvision.datasets
    expected = {(source.filename, source.tgz_md5) for source in (sets.CIFAR10, sets.CIFAR100)}
    expected |= {tuple(sets.SVHN.split_list[part][1:]) for part in ("train", "test")}
    expected |= {(f"FashionMNIST/raw/{name}", md5) for name, md5 in sets.FashionMNIST.resources}
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\S+)` \| `([0-9a-f]{32})` \|$", readme, re.MULTILINE)) == expected
    assert f"`digits` is `{load_dataset('digits').fingerprint}`" in readme


def md5_of(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def put_cifar(monkeypatch, root, extracted):
    """A CIFAR-10 of two training images a batch and two test images, as archive or already extracted."""
    source = torchvision.datasets.CIFAR10
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    pixels = rng().integers(0, 256, (12, 3072), dtype=np.uint8)
    batches_ = {f"data_batch_{i + 1}": slice(2 * i, 2 * i + 2) for i in range(5)} | {"test_batch": slice(10, 12)}
    md5 = {}
    for name, where in batches_.items():
        content = {"data": pixels[where], "labels": list(range(12))[where]}
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = md5_of(folder / name)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{i}" for i in range(12)]}))
    monkeypatch.setattr(source, "train_list", [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(source, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5_of(folder / "batches.meta")})
    if not extracted:
        with tarfile.open(root / source.filename, "w:gz") as tar:
            tar.add(folder, source.base_folder)
        monkeypatch.setattr(source, "tgz_md5", md5_of(root / source.filename))
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    return pixels.reshape(12, 3, 32, 32)


@pytest.mark.parametrize("extracted", [False, True])
def test_cifar_from_its_archive_or_its_folder(extracted, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.utils, "download_url", no_network)
    pixels = put_cifar(monkeypatch, tmp_path, extracted)
    cifar = load_dataset("cifar10", tmp_path)
    assert np.array_equal(cifar.train.images.numpy(), pixels[:10])
    assert np.array_equal(cifar.test.images.numpy(), pixels[10:])
    assert cifar.train.labels.tolist() == list(range(10))
    assert cifar.test.labels.tolist() == [10, 11]
    assert cifar.classes[3] == "class3"
    assert (tmp_path / ".cache" / "cifar10.npz").exists()


def test_what_an_archive_names_and_is_no_file_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path, "inside", recursive=False)
    with tarfile.open(tmp_path / "a.tar") as tar, pytest.raises(ValueError, match="inside is no file in its archive"):
        sources._member(tar, "inside")


def test_a_damaged_extracted_file_without_its_archive_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.utils, "download_url", no_network)
    put_cifar(monkeypatch, tmp_path, extracted=True)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"torn")
    with pytest.raises(RuntimeError, match=r"data_batch_3 is corrupt.*delete it"):
        load_dataset("cifar10", tmp_path)


def test_a_damaged_extracted_file_is_restored_from_its_archive(tmp_path, monkeypatch):
    pixels = put_cifar(monkeypatch, tmp_path, extracted=False)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"torn")
    assert np.array_equal(load_dataset("cifar10", tmp_path).train.images.numpy(), pixels[:10])


def test_svhn_counts_its_label_10_as_the_digit_0(tmp_path, monkeypatch):
    pixels = rng().integers(0, 256, (32, 32, 3, 3), dtype=np.uint8)
    listed = {}
    for part in ("train", "test"):
        path = tmp_path / f"{part}_32x32.mat"
        savemat(path, {"X": pixels, "y": np.array([[10], [1], [9]], np.uint8)})
        listed[part] = ["http://nowhere", path.name, md5_of(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    svhn = load_dataset("svhn", tmp_path)
    assert svhn.train.labels.tolist() == [0, 1, 9]
    assert np.array_equal(svhn.test.images.numpy(), pixels.transpose(3, 2, 0, 1))


def test_fashion_mnist_is_downloaded_beside_and_renamed(tmp_path, monkeypatch):
    """The download is played by a function that writes an IDX file: header, then the bytes."""
    source = torchvision.datasets.FashionMNIST
    images = rng().integers(0, 256, (2, 28, 28), dtype=np.uint8)
    seen = []

    def download(url, root, filename, md5):
        seen.append(filename)
        body = images.tobytes() if "images" in filename else bytes([7, 3])
        header = 16 if "images" in filename else 8
        root.mkdir(parents=True, exist_ok=True)
        (root / filename).write_bytes(gzip.compress(bytes(header) + body))

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download)
    fashion = load_dataset("fashion_mnist", tmp_path)
    assert np.array_equal(fashion.train.images[:, 0].numpy(), images)
    assert fashion.test.labels.tolist() == [7, 3]
    assert fashion.classes[9] == "Ankle boot"
    assert seen == [f"{name}.part" for name, _ in source.resources]
    left = {path.name for path in (tmp_path / "FashionMNIST" / "raw").iterdir()}
    assert left == {name for name, _ in source.resources}


# --- image folders and the cache -------------------------------------------------------------------------


def put_folder(root, classes=("cat", "dog"), per_class=2, size=(5, 4)):
    """PNGs whose every pixel is (class index, image number, part), so that each can be recognised."""
    for part_index, part in enumerate(("train", "test")):
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for number in range(per_class):
                image = Image.new("RGB", size, (label, number, part_index))
                image.save(root / part / name / f"{number}.png")
    return root


def test_folder_classes_are_sorted_and_pixels_kept(tmp_path):
    folder = put_folder(tmp_path / "pets")
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    pets = load_dataset(f"folder:{folder}", tmp_path)
    assert pets.name == f"folder:{folder}"
    assert pets.classes == ("cat", "dog")
    assert pets.train.images.shape == (4, 3, 4, 5)
    assert pets.train.labels.tolist() == [0, 0, 1, 1]
    assert pets.train.images[:, :, 0, 0].tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]
    assert pets.test.images[:, 2].unique().tolist() == [1]


def test_folder_path_is_relative_to_the_working_directory_or_else_the_project(tmp_path, monkeypatch):
    put_folder(tmp_path / "project" / "pets", per_class=3)
    monkeypatch.setattr(data, "ROOT", tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("folder:pets", tmp_path).train) == 6
    put_folder(tmp_path / "pets", per_class=1)
    assert len(load_dataset("folder:pets", tmp_path).train) == 2
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'none'}/train does not exist"):
        load_dataset("folder:none", tmp_path)


def test_grey_images_become_rgb(tmp_path):
    folder = put_folder(tmp_path / "grey")
    for path in folder.rglob("*.png"):
        Image.new("L", (5, 4), 9).save(path)
    assert load_dataset(f"folder:{folder}", tmp_path).train.images.unique().tolist() == [9]


def damage(folder, what):
    if what == "no test":
        (folder / "test").rename(folder / "elsewhere")
    elif what == "empty class":
        (folder / "train" / "ant").mkdir()
    elif what == "extra class":
        put_folder(folder, classes=("emu",))
        (folder / "test" / "emu").rename(folder / "emu")
    elif what == "another size":
        Image.new("RGB", (7, 7)).save(folder / "test" / "dog" / "1.png")
    elif what == "torn image":
        whole = (folder / "train" / "dog" / "1.png").read_bytes()
        (folder / "train" / "dog" / "1.png").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("no test", FileNotFoundError, r"test does not exist: an image folder needs train/<class>"),
        ("empty class", FileNotFoundError, r"train holds no images in \['ant'\]"),
        ("extra class", ValueError, r"must have the same classes; only one of them has \['emu'\]"),
        ("another size", ValueError, r"dog.1\.png is 7x7 pixels, the first training image 5x4"),
        ("torn image", RuntimeError, r"dog.1\.png is not a readable image: replace or delete it"),
    ],
)
def test_folders_that_do_not_fit_are_refused(what, error, message, tmp_path):
    folder = put_folder(tmp_path / "pets")
    damage(folder, what)
    with pytest.raises(error, match=message):
        load_dataset(f"folder:{folder}", tmp_path)


def read_uncached(folder, data_dir):
    data._load.cache_clear()
    return load_dataset(f"folder:{folder}", data_dir)


def test_two_folders_of_one_name_are_told_apart(tmp_path):
    """Even with files of the same names, sizes and times."""
    folders = [put_folder(tmp_path / parent / "pets") for parent in ("a", "b")]
    for grey, folder in zip((1, 2), folders, strict=True):
        for path in sorted(folder.rglob("*.png")):
            path.unlink()
            Image.new("RGB", (5, 4), (grey, 0, 0)).save(path.with_suffix(".bmp"))
            os.utime(path.with_suffix(".bmp"), (0, 0))
    found = [load_dataset(f"folder:{folder}", tmp_path / "data") for folder in folders]
    assert [int(one.train.images.max()) for one in found] == [1, 2]


def test_images_are_decoded_once(tmp_path, monkeypatch):
    folder = put_folder(tmp_path / "pets")
    first = read_uncached(folder, tmp_path)
    monkeypatch.setattr(sources, "read_images", lambda paths, shape: pytest.fail("decoded again"))
    assert read_uncached(folder, tmp_path).fingerprint == first.fingerprint


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_a_torn_cache_is_rebuilt(keep, tmp_path):
    folder = put_folder(tmp_path / "pets")
    first = read_uncached(folder, tmp_path)
    (cache,) = (tmp_path / ".cache").iterdir()
    whole = cache.read_bytes()
    cache.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    assert read_uncached(folder, tmp_path).fingerprint == first.fingerprint
    assert len(cache.read_bytes()) == len(whole)


def test_a_changed_pixel_in_the_cache_is_noticed(tmp_path):
    folder = put_folder(tmp_path / "pets", size=(64, 64))
    first = read_uncached(folder, tmp_path)
    (cache,) = (tmp_path / ".cache").iterdir()
    stored = bytearray(cache.read_bytes())
    stored[1000] ^= 255
    cache.write_bytes(stored)
    assert read_uncached(folder, tmp_path).fingerprint == first.fingerprint


def another_cache(tmp_path, **changes):
    """The one cache, written again with other arrays under a right checksum of its zip file."""
    (cache,) = (tmp_path / ".cache").iterdir()
    with np.load(cache) as stored:
        arrays = {key: stored[key] for key in stored.files} | changes
    np.savez(cache, **arrays)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_images": np.zeros((4, 3, 4, 5), np.uint8)},
        {"test_labels": np.zeros(4, np.int64)},
        {"train_images": np.zeros((4, 3, 4, 5))},
        {"origin": np.array("of other files")},
        {"digest": np.array("0" * 64)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_cache_of_other_images_is_rebuilt(changes, tmp_path):
    folder = put_folder(tmp_path / "pets")
    first = read_uncached(folder, tmp_path)
    another_cache(tmp_path, **changes)
    assert read_uncached(folder, tmp_path).fingerprint == first.fingerprint


def test_the_cache_of_an_archive_is_held_to_the_archive(tmp_path, monkeypatch):
    """It serves when the archive is gone, and not when another archive lies in its place."""
    pixels = put_cifar(monkeypatch, tmp_path, extracted=False)
    data._load.cache_clear()
    load_dataset("cifar10", tmp_path)
    reads = []
    inner = sources.ARCHIVES["cifar10"]
    spied = inner._replace(read=lambda data_dir: reads.append(1) or inner.read(data_dir))
    monkeypatch.setitem(sources.ARCHIVES, "cifar10", spied)

    def again():
        data._load.cache_clear()
        return load_dataset("cifar10", tmp_path).train.images.numpy()

    assert np.array_equal(again(), pixels[:10]) and reads == []
    archive = tmp_path / "cifar-10-python.tar.gz"
    os.utime(archive, ns=(0, 0))
    assert np.array_equal(again(), pixels[:10]) and reads == [1]
    for path in (archive, *(tmp_path / "cifar-10-batches-py").iterdir()):
        path.unlink()
    assert np.array_equal(again(), pixels[:10]) and reads == [1]
    archive.write_bytes(b"another archive")
    with pytest.raises(RuntimeError, match=r"cifar-10-python\.tar\.gz is corrupt"):
        again()


def test_a_changed_folder_is_read_anew(tmp_path):
    folder = put_folder(tmp_path / "pets")
    first = read_uncached(folder, tmp_path)
    changed = folder / "train" / "cat" / "0.png"
    Image.new("RGB", (5, 4), (200, 0, 0)).save(changed)
    os.utime(changed, ns=(0, 0))
    assert read_uncached(folder, tmp_path).fingerprint != first.fingerprint


def test_without_room_for_the_cache_the_images_still_come(tmp_path):
    folder = put_folder(tmp_path / "pets")
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="not cached"):
        assert len(load_dataset(f"folder:{folder}", tmp_path / "file").train) == 4


# --- splits ----------------------------------------------------------------------------------------------


def test_a_split_refuses_other_shapes_and_types():
    images, labels = torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"uint8 \[N, C, H, W\], not float32 \[2, 1, 3, 3\]"):
        Split(images.float(), labels)
    with pytest.raises(ValueError, match=r"int64 \[2\], not int64 \[1\]"):
        Split(images, labels[:1])


@pytest.mark.parametrize("index", [np.array([3, 1]), torch.tensor([3, 1]), slice(3, 0, 1), slice(1, 3)])
def test_take_follows_the_index(index):
    expected = np.arange(5)[index if not isinstance(index, torch.Tensor) else index.numpy()]
    taken = numbered([0, 1, 0, 1, 0]).take(index)
    assert numbers(taken) == expected.tolist()
    assert taken.labels.tolist() == (expected % 2).tolist()


@given(
    labels=st.lists(st.integers(0, 3), min_size=8, max_size=60),
    shots=st.integers(1, 2),
    seed=st.integers(0, 999),
)
def test_the_public_set_is_class_balanced_and_disjoint_from_the_rest(labels, shots, seed):
    labels = labels + [0, 1, 2, 3] * 2
    train = numbered(labels)
    public, rest = public_split(train, shots, rng(seed))
    assert torch.bincount(public.labels).tolist() == [shots] * 4
    assert sorted(numbers(public) + rest.tolist()) == list(range(len(labels)))
    assert rest.tolist() == sorted(rest.tolist())


def test_no_public_sample_is_a_clients_or_the_tests():
    """The mistake caught: D_s drawn from the test split, or left among the clients' samples."""
    train, test = numbered([0, 1] * 300), numbered([0, 1] * 500).take(slice(600, 1000))
    public, rest = public_split(train, 20, rng())
    parts = partition("dirichlet", train.labels.numpy()[rest], 5, 0.5, 10, rng()).parts
    held = [number for part in parts for number in numbers(train.take(rest[part]))]
    assert len(held) == len(set(held)) == 600 - 40
    assert not set(numbers(public)) & set(held)
    assert not set(numbers(public)) & set(numbers(test))
    assert set(numbers(public)) <= set(range(600))


@pytest.mark.parametrize("shots", [0, 3])
def test_too_many_or_no_shots_are_refused(shots):
    with pytest.raises(ValueError, match=f"{shots} samples per class.*allowed: 1 to 2, .* class 1"):
        public_split(numbered([0, 0, 0, 1, 1]), shots, rng())


@given(samples=st.integers(1, 60), seed=st.integers(0, 999))
def test_a_limited_split_keeps_class_proportions(samples, seed):
    labels = [0] * 30 + [1] * 20 + [2] * 10
    split = limit(numbered(labels), samples, rng(seed))
    kept = torch.bincount(split.labels, minlength=3)
    assert kept.sum() == samples
    assert all(abs(kept[label] - samples * share) < 1 for label, share in enumerate((1 / 2, 1 / 3, 1 / 6)))
    assert numbers(split) == sorted(set(numbers(split)))


def test_limit_zero_keeps_all_and_more_than_all_is_refused():
    split = numbered([0, 1, 2])
    assert limit(split, 0, rng()) is split
    for samples in (-1, 4):
        with pytest.raises(ValueError, match=f"{samples} samples asked, allowed: 1 to 3"):
            limit(split, samples, rng())


def test_distortion_by_hand():
    """Of x = 0.6, x*0.5 + 0.4 = 0.7 at least, 1.0 at most, and 0.85 on the mean; of x = 1, two thirds are above 1."""
    split = Split(torch.full((1, 1, 200, 200), 153, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    pixels = distort(split, seeded()).images.double() / 255
    assert float(pixels.mean()) == pytest.approx(0.85, abs=0.01)
    assert 0.7 <= float(pixels.min()) < 0.71 and 0.99 < float(pixels.max()) <= 1
    white = Split(torch.full_like(split.images, 255), split.labels)
    clipped = distort(white, seeded()).images == 255
    assert float(clipped.double().mean()) == pytest.approx(2 / 3, abs=0.02)
    noise = torch.rand(split.images.shape, generator=seeded())
    expected = ((split.images / 255 * 0.5 + 0.4 + 0.3 * noise).clamp(0, 1) * 255).round().to(torch.uint8)
    assert torch.equal(distort(split, seeded()).images, expected)


def test_to_float_normalises_each_channel():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    out = to_float(images, (0.5, 0.5), (0.5, 0.25))
    assert out.dtype == torch.float32
    assert out.flatten().tolist() == [-1.0, 2.0]


# --- augmentation ----------------------------------------------------------------------------------------


def crop_flip_by_hand(image, dy, dx, flip):
    """One image at a time, with numpy: pad by an eighth, cut at (dy, dx), mirror."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (max(1, height // 8),) * 2, (max(1, width // 8),) * 2))
    crop = padded[:, dy : dy + height, dx : dx + width]
    return crop[:, :, ::-1] if flip else crop


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 28, 28), (2, 16, 24)])
def test_crop_flip_equals_cropping_one_by_one(shape):
    images = torch.randint(256, (20, *shape), dtype=torch.uint8, generator=seeded())
    out = augment(images, "crop_flip", seeded(1)).numpy()
    replay = seeded(1)
    dy = torch.randint(2 * max(1, shape[1] // 8) + 1, (20,), generator=replay)
    dx = torch.randint(2 * max(1, shape[2] // 8) + 1, (20,), generator=replay)
    flip = torch.randint(2, (20,), generator=replay)
    for index, image in enumerate(images.numpy()):
        assert np.array_equal(out[index], crop_flip_by_hand(image, dy[index], dx[index], flip[index]))
    assert set(flip.tolist()) == {0, 1}


def test_cutout_removes_a_square_of_half_the_side_cut_at_the_border():
    images = torch.full((200, 3, 32, 32), 200, dtype=torch.uint8)
    out = augment(images, "crop_flip_cutout", seeded(), fill=(0.2, 0.4, 0.6))
    filled = (out == torch.tensor([51, 102, 153]).view(3, 1, 1)).all(dim=1)
    rows, columns = filled.any(dim=2).sum(dim=1), filled.any(dim=1).sum(dim=1)
    assert torch.equal(filled.sum(dim=(1, 2)), rows * columns)  # a rectangle in every image
    assert rows.min() >= 8 and rows.max() == 16
    assert columns.min() >= 8 and columns.max() == 16
    untouched = out.permute(0, 2, 3, 1)[~filled]
    assert set(untouched.unique().tolist()) <= {0, 200}  # 0: the padding of the crop


def test_augmentation_repeats_from_its_generator_and_leaves_its_input():
    images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8, generator=seeded())
    before = images.clone()
    one, two = (augment(images, "crop_flip_cutout", seeded(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(images, before)
    assert augment(images, "none", seeded()) is images


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(ValueError, match="augment = 'mixup': choose one of none, crop_flip, crop_flip_cutout"):
        augment(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "mixup", seeded())


# --- batches ---------------------------------------------------------------------------------------------


@given(samples=st.integers(1, 100), size=st.integers(1, 20), shuffled=st.booleans())
def test_batches_hold_every_sample_once_and_drop_nothing(samples, size, shuffled):
    """The mistake caught: `drop_last` on the test split."""
    parts = batches(samples, size, seeded() if shuffled else None)
    order = torch.cat(parts).tolist()
    assert sorted(order) == list(range(samples))
    assert shuffled or order == list(range(samples))
    assert all(len(part) == size for part in parts[:-1])
    assert len(parts[-1]) <= size + 1
    assert len(parts[-1]) > 1 or samples == 1 or size == 1


@pytest.mark.parametrize(
    ("samples", "size", "lengths"),
    [(9, 4, [4, 5]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 1, 1])],
)
def test_batch_lengths_by_hand(samples, size, lengths):
    assert [len(part) for part in batches(samples, size, seeded())] == lengths


def test_shuffles_follow_the_generator():
    assert torch.equal(batches(50, 50, seeded(3))[0], batches(50, 50, seeded(3))[0])
    assert not torch.equal(batches(50, 50, seeded(3))[0], batches(50, 50, seeded(4))[0])


@pytest.mark.parametrize(("samples", "size"), [(0, 4), (4, 0)])
def test_empty_batches_are_refused(samples, size):
    with pytest.raises(ValueError, match=f"not {samples} and {size}"):
        batches(samples, size)
