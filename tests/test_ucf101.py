"""The reader of UCF101: official lists, names of any case, frames evenly spaced over a clip."""

import re
import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from partbench.config import check
from partbench.data import prepare as prepare_module
from partbench.data.clips import read_clip
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.data.ucf101 import COUNTS, UCF101
from partbench.errors import BadInput

WIDTH, HEIGHT = 48, 32
STEP = 6


def reader(root: Path, **settings: Any) -> UCF101:
    return UCF101(root, UCF101.Settings.parse({"size": 16, "frames": 3} | settings, "test"))


def prepare_one(data_set: UCF101, out: Path) -> Prepared:
    prepare(data_set, "mine", out, 1)
    return Prepared(out)


def frame(colour: Any, width: int = WIDTH, height: int = HEIGHT) -> av.VideoFrame:
    image = np.full((height, width, 3), colour, np.uint8)
    return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj420p")


def write(path: Path, colours: Iterable[Any], codec: str = "mjpeg") -> Path:
    """Write a clip with frames of one colour each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        container.start_encoding()
        for colour in colours:
            container.mux(stream.encode(frame(colour)))
        container.mux(stream.encode())
    return path


def write_clip(path: Path, length: int = 6, first: int = 10) -> Path:
    """Write frames of one grey each, `first` + `STEP` times their number."""
    return write(path, range(first, first + STEP * length, STEP))


def numbers(clip: NDArray[np.uint8], first: int = 10) -> list[int]:
    """Return which frames of a written clip these are."""
    greys = clip.reshape(len(clip), -1).mean(1)
    frame_numbers = np.round((greys - first) / STEP)
    assert np.abs(greys - first - STEP * frame_numbers).max() < STEP / 2 - 0.5
    return frame_numbers.astype(int).tolist()


def claim(path: Path, length: int) -> None:
    """Make the header of an avi file claim another number of frames."""
    content = bytearray(path.read_bytes())
    for chunk, place in ((b"avih", 16), (b"strh", 32)):
        start = content.index(chunk) + 8 + place
        content[start : start + 4] = struct.pack("<I", length)
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == length


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [
        (40, 1, [20]),
        (40, 4, [5, 15, 25, 35]),
        (10, 3, [1, 5, 8]),
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 7, [0, 0, 1, 1, 1, 2, 2]),
        (1, 4, [0, 0, 0, 0]),
    ],
)
def test_frames_are_the_middles_of_equal_stretches(
    length: int, count: int, expected: list[int], tmp_path: Path
) -> None:
    path = write_clip(tmp_path / "v.avi", length)
    clip = read_clip(path, count)
    assert clip.shape == (count, HEIGHT, WIDTH, 3)
    assert clip.dtype == np.uint8
    assert numbers(clip) == expected
    for claimed in (0, 1, length + 30, 10_000_000):  # a wrong header changes nothing
        claim(path, claimed)
        assert numbers(read_clip(path, count)) == expected


def test_colours_are_rgb(tmp_path: Path) -> None:
    path = write(tmp_path / "v.avi", [(200, 30, 60)])
    assert abs(read_clip(path, 1)[0].astype(int) - (200, 30, 60)).max() < 12


def test_clips_that_cannot_be_read(tmp_path: Path) -> None:
    # With this codec, a decoder returns the frames before a cut and reports no error.
    whole = write(tmp_path / "whole.avi", range(20), codec="mpeg4").read_bytes()
    broken = {
        "short.avi": (whole[: len(whole) * 9 // 10], "it is truncated"),
        "header.avi": (whole[:100], "it is truncated"),
        "empty.avi": (b"", "Invalid data found"),
        "page.avi": (b"<html>quota exceeded</html>", "Invalid data found"),
        "none.avi": (write_clip(tmp_path / "none.avi", 0).read_bytes(), "it has no frames"),
    }
    for name, (content, why) in broken.items():
        path = tmp_path / name
        path.write_bytes(content)
        message = rf"{name}: cannot be decoded \({why}.*\); .*`broken: skip`"
        with pytest.raises(BadInput, match=message):
            read_clip(path, 3)
    with pytest.raises(BadInput, match=r"gone.avi: cannot be decoded \(No such file"):
        read_clip(tmp_path / "gone.avi", 3)


def test_a_clip_with_frames_of_several_sizes(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for _ in range(3):
            container.mux(stream.encode(frame(50)))
        other: Any = av.CodecContext.create("mjpeg", "w")
        other.width, other.height, other.pix_fmt = 64, 48, "yuvj420p"
        other.time_base = Fraction(1, 25)
        for packet in [*other.encode(frame(50, 64, 48)), *other.encode(None)]:
            packet.stream, packet.pts, packet.dts = stream, 3, 3
            packet.time_base = Fraction(1, 25)
            container.mux(packet)
    with pytest.raises(BadInput, match=r"v.avi: .*frame 3 is 64 x 48, those before it are 48 x 32"):
        read_clip(path, 1)  # although that frame is not selected


def test_a_file_with_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(BadInput, match=r"v.avi: cannot be decoded \(it holds no video\)"):
        read_clip(path, 1)


def test_whole_frames(tmp_path: Path) -> None:
    """Left half dark, right half bright; 3 x 2 becomes 4 x 3, as the protocol squashes it."""
    write_lists(tmp_path)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, WIDTH // 2 :] = 200
    for line in (*TRAIN, *TEST):
        write(tmp_path / "UCF-101" / line.split()[0], [image] * 4)
    data = prepare_one(reader(tmp_path, crop="frame", size=24), tmp_path / "out")
    images = data.split("train").images
    assert images.shape == (2, 3, 24, 32, 3)
    assert images[..., :14, :].max() < 40
    assert images[..., 18:, :].min() > 160
    for name, crop in (("squares", "center"), ("frames", "frame")):
        config = {
            "name": name,
            "seeds": [0],
            "data": {"ucf101": {"reader": "ucf101", "frames": 1, "crop": crop}},
            "runs": [
                {
                    "train": "ucf101",
                    "methods": {"raw_pixels": ["paper"]},
                    "probes": {"linear": ["ucf101"]},
                }
            ],
        }
        if crop == "center":
            check(config, "here")
            continue
        with pytest.raises(BadInput, match=r"`crop: frame` of ucf101 .* raw_pixels takes squares"):
            check(config, "here")


TRAIN = ["Archery/v_Archery_g08_c01.avi 1", "HandstandPushups/v_HandStandPushups_g08_c01.avi 2"]
TEST = ["HandstandPushups/v_HandStandPushups_g01_c01.avi"]


def write_lists(root: Path, fold: int = 1, train: list[str] = TRAIN) -> None:
    folder = root / "ucfTrainTestlist"
    folder.mkdir(exist_ok=True)
    lists = {f"trainlist0{fold}": train, f"testlist0{fold}": TEST}
    for name, lines in ({"classInd": ["1 Archery", "2 HandstandPushups"]} | lists).items():
        (folder / f"{name}.txt").write_bytes("".join(f"{x}\r\n" for x in lines).encode())


@pytest.mark.parametrize("flat", [False, True])
def test_ucf101_in_miniature(flat: bool, tmp_path: Path) -> None:
    write_lists(tmp_path, fold=2)
    # The archive and the lists disagree on the case of the names.
    for folder, name, first in (
        ("Archery", "v_Archery_g08_c01.avi", 10),
        ("HandstandPushups", "v_HandstandPushups_g08_c01.avi", 60),
        ("HandstandPushups", "v_HandstandPushups_g01_c01.avi", 110),
        ("HandstandPushups", "v_HandstandPushups_g99_c01.avi", 160),  # in no list
    ):
        write_clip(tmp_path / "UCF-101" / ("" if flat else folder) / name, 9, first)
    data = prepare_one(reader(tmp_path, fold=2), tmp_path / "out")
    train, test = data.split("train"), data.split("test")
    assert train.images.shape == (2, 3, 16, 16, 3)
    assert numbers(train.images[0], 10) == [1, 4, 7]
    assert numbers(train.images[1], 60) == [1, 4, 7]
    assert numbers(test.images[0], 110) == [1, 4, 7]
    assert train.annotation("labels").tolist() == [0, 1]
    assert test.annotation("labels").tolist() == [1]
    assert data.meta["class_names"] == ["Archery", "HandstandPushups"]
    names = (tmp_path / "out" / "train.names.txt").read_text().splitlines()
    assert names == [line.split()[0] for line in TRAIN]
    with pytest.raises(BadInput, match=r"trainlist01.txt is missing"):
        reader(tmp_path, fold=1).splits()


def test_clips_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"list\w*01.txt is missing; get UCF101Train.* www.crcv.*unpack it"
    ):
        reader(tmp_path).splits()
    write_lists(tmp_path)
    with pytest.raises(BadInput, match=r"UCF-101 is missing; get UCF101.rar .*www.crcv.*unpack it"):
        prepare_one(reader(tmp_path), tmp_path / "out")
    write_clip(tmp_path / "UCF-101" / "v_Archery_g08_c01.avi")
    with pytest.raises(BadInput, match=r"1 of 2 images .*'train'.*v_HandStandPushups_g08_c01.avi"):
        prepare_one(reader(tmp_path), tmp_path / "out")
    data = prepare_one(reader(tmp_path, subset=True), tmp_path / "out")
    assert data.meta["splits"] == {"train": {"n": 1, "missing": 1, "skipped": []}}
    with pytest.raises(
        BadInput, match=r"UCF-101: Handstand\S+_g08_c01.avi is missing; place it .*or set"
    ):
        reader(tmp_path).sample("train", 1)
    (tmp_path / "UCF-101" / "v_Archery_g08_c01.avi").unlink()
    with pytest.raises(BadInput, match=r"UCF-101: no clip of the lists"):
        reader(tmp_path, subset=True).splits()


def test_a_broken_clip_is_left_out_and_listed(tmp_path: Path) -> None:
    write_lists(tmp_path)
    for line in (*TRAIN, *TEST):
        path = write_clip(tmp_path / "UCF-101" / line.split()[0])
    broken = tmp_path / "UCF-101" / TRAIN[0].split()[0]
    broken.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(BadInput, match=r"v_Archery_g08_c01.avi: cannot be decoded"):
        prepare_one(reader(tmp_path), tmp_path / "out")
    data = prepare_one(reader(tmp_path, broken="skip"), tmp_path / "out")
    assert data.meta["splits"]["train"]["skipped"] == ["Archery/v_Archery_g08_c01.avi"]
    assert data.split("train").annotation("labels").tolist() == [1]


def test_an_action_whose_training_clips_are_all_broken_is_named(tmp_path: Path) -> None:
    """Where they are left out, preparation says so, and not a probe much later."""
    second = "HandstandPushups/v_HandStandPushups_g09_c01.avi 2"
    write_lists(tmp_path, train=[*TRAIN, second])
    clips = [tmp_path / "UCF-101" / line.split()[0] for line in (*TRAIN, second, *TEST)]
    for path in clips:
        whole = write_clip(path).read_bytes()
    for path in clips[1:3]:
        path.write_bytes(whole[:-500])
    refused = r"no training clip of .*: HandstandPushups \(1\); .* that can be decoded"
    with pytest.raises(BadInput, match=refused):
        prepare_one(reader(tmp_path, broken="skip"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    clips[2].write_bytes(whole)  # one is enough
    data = prepare_one(reader(tmp_path, broken="skip"), tmp_path / "out")
    assert data.split("train").annotation("labels").tolist() == [0, 1]
    clips[2].write_bytes(whole[:-500])
    clips[3].write_bytes(whole[:-500])  # nothing is measured of it then
    with pytest.raises(BadInput, match="no image of split 'test' can be decoded"):
        prepare_one(reader(tmp_path, broken="skip"), tmp_path / "out")


def test_all_broken_clips_are_named_and_none_of_the_others_is_lost(tmp_path: Path) -> None:
    train = [f"Archery/v_Archery_g{8 + i // 4:02d}_c{i % 4 + 1:02d}.avi 1" for i in range(12)]
    train[8] = TRAIN[1]
    write_lists(tmp_path, train=train)
    clips = [tmp_path / "UCF-101" / line.split()[0] for line in (*train, *TEST)]
    for path in clips:
        write_clip(path)
    whole = clips[-1].read_bytes()
    clips[0].write_bytes(whole[:-500])
    write_clip(clips[5], 0)
    clips[11].write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module, "CHUNK", 2)
        with pytest.raises(BadInput) as caught:
            prepare_one(reader(tmp_path), tmp_path / "out")
        first, *faults = str(caught.value).splitlines()
        assert first == "3 samples cannot be used:"
        for fault, i, why in zip(faults, (0, 5, 11), ("trunc", "no frames", "Inv"), strict=True):
            assert str(clips[i]) in fault
            assert why in fault
        for i in (0, 5, 11):
            clips[i].write_bytes(whole)
        read: list[tuple[str, int]] = []
        patch.setattr(UCF101, "sample", counted(UCF101.sample, read))
        prepare_one(reader(tmp_path), tmp_path / "out")
    # Of the chunks, only those of broken clips are decoded again.
    assert sorted(set(read)) == [("train", i) for i in (0, 1, 4, 5, 10, 11)]


def counted(sample: Any, read: list[tuple[str, int]]) -> Any:
    def wrapped(self: UCF101, split: str, index: int) -> Any:
        read.append((split, index))
        return sample(self, split, index)

    return wrapped


def test_a_preparation_of_the_wrong_files_stops_soon(tmp_path: Path) -> None:
    train = [f"Archery/v_Archery_g08_c{i:02d}.avi 1" for i in range(1, 41)]
    write_lists(tmp_path, train=[*train, TRAIN[1]])
    for line in (*train, TRAIN[1], *TEST):
        path = tmp_path / "UCF-101" / line.split()[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"<html>")
    write_clip(path)  # the test clip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module, "MOST_BROKEN", 5)
        with pytest.raises(BadInput, match=r"^5 or more samples cannot be used:\n") as caught:
            prepare_one(reader(tmp_path), tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 6


def test_an_action_without_training_clips(tmp_path: Path) -> None:
    write_lists(tmp_path)
    for line in (TRAIN[0], *TEST):
        write_clip(tmp_path / "UCF-101" / line.split()[0])
    with pytest.raises(
        BadInput,
        match=r"no training clip of the list trainlist01.txt, are there of: HandstandPushups \(1\)",
    ):
        prepare_one(reader(tmp_path, subset=True), tmp_path / "out")
    write_lists(tmp_path, train=TRAIN[:1])  # the lists themselves
    with pytest.raises(BadInput, match=r"are there of: HandstandPushups \(1\); place training"):
        reader(tmp_path).splits()


def test_lists_that_mix_films(tmp_path: Path) -> None:
    write_lists(tmp_path, train=[*TRAIN, "HandstandPushups/v_HandStandPushups_g01_c07.avi 2"])
    with pytest.raises(BadInput, match=r"testlist01.txt: \S+_g01_c01.avi is of group g01, which"):
        reader(tmp_path).splits()
    write_lists(tmp_path, train=[*TRAIN, TRAIN[0]])
    with pytest.raises(BadInput, match=r"trainlist01.txt: \S+_g08_c01.avi stands twice"):
        reader(tmp_path).splits()
    for name in ("v_Archery_c01.avi", "v_Archery_g00_c01.avi", "v_Archery_g100_c01.avi"):
        write_lists(tmp_path, train=[*TRAIN, f"Archery/{name} 1"])
        with pytest.raises(BadInput, match=rf"Archery/{name} names no group from g01 to g99"):
            reader(tmp_path).splits()


def test_clips_of_a_film_are_a_group(tmp_path: Path) -> None:
    train = [*TRAIN, "Archery/v_Archery_g08_c02.avi 1", "Archery/v_Archery_g09_c01.avi 1"]
    write_lists(tmp_path, train=train)
    for line in (*train, *TEST):
        write_clip(tmp_path / "UCF-101" / line.split()[0])
    data = prepare_one(reader(tmp_path), tmp_path / "out")
    groups = data.split("train").annotation("groups")
    assert groups.dtype == np.int64
    assert groups[0] == groups[2]
    assert len(set(groups.tolist())) == 3
    assert not np.isin(data.split("test").annotation("groups"), groups).any()


def test_two_files_for_one_clip(tmp_path: Path) -> None:
    write_lists(tmp_path)
    for folder in ("HandstandPushups/v_HandStand", "v_Handstand"):
        write_clip(tmp_path / "UCF-101" / f"{folder}Pushups_g08_c01.avi")
    with pytest.raises(BadInput, match=r"HandStandPushups_g08_c01.avi and .*v_Handstand\S* are th"):
        reader(tmp_path).present("train")


@pytest.mark.parametrize("line", ["Archery/v_Archery_g08_c01.avi 2", "Juggling/v_J_g08_c01.avi 1"])
def test_a_list_that_disagrees_with_the_classes(line: str, tmp_path: Path) -> None:
    write_lists(tmp_path, train=[line])
    with pytest.raises(BadInput, match=rf"trainlist01.txt: {line} contradicts classInd"):
        reader(tmp_path).splits()


@pytest.mark.parametrize("line", ["1 Archery", "2", "2 Hand Stand", "HandstandPushups"])
def test_a_list_of_classes_that_is_broken(line: str, tmp_path: Path) -> None:
    write_lists(tmp_path)
    (tmp_path / "ucfTrainTestlist" / "classInd.txt").write_text(f"1 Archery\r\n{line}\r\n")
    with pytest.raises(
        BadInput, match=rf"classInd.txt, line 2: expected 2 and an action, got '{line}'; un"
    ):
        reader(tmp_path).splits()


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_the_real_lists(fold: int, shared_data: Path) -> None:
    data_set = reader(shared_data, fold=fold)
    splits = data_set.splits()
    assert {split: len(set(names)) for split, names in splits.items()} == COUNTS[fold]
    assert data_set.counts == COUNTS[fold]
    assert sum(COUNTS[fold].values()) == 13_320
    assert len(data_set.class_names) == 101
    groups = [{re.sub(r"_c\d+\.avi$", "", name) for name in names} for names in splits.values()]
    assert [len(group) for group in groups] == [101 * 18, 101 * 7]
    assert groups[0].isdisjoint(groups[1])
    assert len(set(splits["train"]) | set(splits["test"])) == 13_320


def test_real_clips(shared_data: Path, tmp_path: Path) -> None:
    limit = {"train": 4, "test": 4}
    data_set = reader(shared_data, size=64, frames=5, subset=True, limit=limit)
    assert [len(data_set.present(split)) for split in data_set.splits()] == [30, 18]
    data = prepare_one(data_set, tmp_path / "out")
    assert data.meta["subset"] is True
    test = data.split("test")
    assert test.images.shape == (4, 5, 64, 64, 3)
    images = test.images.astype(float)
    assert images.std() > 40
    assert (images.std(1).mean((1, 2, 3)) > 1).all()  # things move
    names = (tmp_path / "out" / "test.names.txt").read_text().splitlines()
    classes = [data.meta["class_names"][label] for label in test.annotation("labels")]
    assert classes == [name.partition("/")[0] for name in names]
