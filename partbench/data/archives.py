"""The table of official files: their addresses, checksums and places below the data root."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partbench.errors import BadInput
from partbench.settings import nearest

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".rar")


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One official file.

    The file is fetched, or placed by hand, into `<data root>/archives/`. Readers read what it
    gives, which lies beside that folder.
    """

    name: str
    """File name in `archives/`."""
    gives: Mapping[str, str]
    """Path inside the archive -> path below the data root. "" stands for the whole content (the
    content of the top folder, if the archive holds nothing else), or for the file itself if it is
    not an archive."""
    urls: tuple[str, ...] = ()
    """Addresses, tried in this order. If there is none, a person must place the file."""
    size: int | None = None
    """Bytes; None if unknown."""
    sha256: str = ""
    """The checksum in hex, or its first digits, as in the names of PyTorch's weight files."""
    md5: str = ""
    """The checksum in hex, used if no sha256 is known."""
    git_blob: str = ""
    """Git's name for the content in hex, used likewise: sha1 of "blob ", the size in digits, a zero
    byte and the content. The tree of a repository has it even of files that are not at hand."""
    same_as: tuple[str, ...] = ()
    """Names of other official archives of the same content, which a person may place instead. No
    checksum of them is published."""
    source: str = ""
    """For a person: the page that offers the file, and what the page requires."""
    read_if: Mapping[str, Any] = field(default_factory=dict)
    """Setting of the reader -> the only value with which the reader uses the file."""

    @property
    def packed(self) -> bool:
        """Whether the file must be unpacked."""
        return self.name.endswith(ARCHIVE_SUFFIXES)

    @property
    def has_checksum(self) -> bool:
        """Whether a checksum says which content is the official one."""
        return bool(self.sha256 or self.md5 or self.git_blob)

    def ready(self, root: Path) -> bool:
        """Whether everything that it gives is present, no matter who unpacked it."""
        return all((root / place).exists() for place in self.gives.values())


def _drive(key: str) -> tuple[str, ...]:
    return (f"https://drive.usercontent.google.com/download?id={key}&export=download&confirm=t",)


def _weights(name: str, size: int | None = None) -> tuple[Archive, ...]:
    """Return a file of download.pytorch.org, whose name ends in the first digits of its sha256."""
    return (
        Archive(
            name=name,
            gives={"": f"weights/{name}"},
            urls=(f"https://download.pytorch.org/models/{name}",),
            sha256=name.rpartition("-")[2].removesuffix(".pth"),
            size=size,
        ),
    )


_CELEBA_PAGE = (
    "mmlab.ie.cuhk.edu.hk/projects/CelebA.html (Google Drive often sends a web page instead)"
)
_CELEBA_IMAGES = Archive(
    name="img_align_celeba.zip",
    gives={"img_align_celeba": "celeba/img_align_celeba"},
    urls=_drive("0B7EVK8r0v71pZjFTYXZWM3FlRnM"),
    size=1_443_490_838,
    sha256="46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
    md5="00d2c5bc6d35e252742224ab0c1e8fcb",
    source=_CELEBA_PAGE,
)
_MAFL_LISTS = tuple(
    Archive(
        name=f"MAFL_{part}.txt",
        gives={"": f"celeba/MAFL/{part}.txt"},
        urls=(
            "https://raw.githubusercontent.com/zhzhanp/TCDCN-face-alignment/master/MAFL/"
            f"{part}.txt",
        ),
        sha256=sha256,
        source="github.com/zhzhanp/TCDCN-face-alignment",
    )
    for part, sha256 in (
        ("training", "435e0488efcb97dee718118b74b4110d42d9524289238f51692b1d60883ccba6"),
        ("testing", "0a93fa3202133333045ce4cef5043a2cb1f4b8858b8e96f3ae7f54becfa07f9e"),
    )
)
_CELEBA_LANDMARKS = Archive(
    name="list_landmarks_align_celeba.txt",
    gives={"": "celeba/list_landmarks_align_celeba.txt"},
    urls=_drive("0B7EVK8r0v71pd0FJY3Blby1HUTQ"),
    size=12_156_055,
    md5="cc24ecafdb5b50baae59b03474781f8c",
    source=_CELEBA_PAGE,
)
_UNSUP_PARTS = "https://www.robots.ox.ac.uk/~vgg/research/unsup-parts/files/checkpoints"
_DLP = "github.com/taldatech/deep-latent-particles-pytorch"
_FV_VAE_COMMIT = "07e9cbed1b6978ea5c9a830a6b855c4e18b35f12"
_SCOPS_COMMIT = "05da7e4690bd9e1edabc93ecb9c44207ea20a76b"
_COCO = "http://images.cocodataset.org"

ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "celeba": (_CELEBA_IMAGES, *_MAFL_LISTS),
    "mafl": (_CELEBA_IMAGES, *_MAFL_LISTS, _CELEBA_LANDMARKS),
    "celeba_annotations": (
        _CELEBA_LANDMARKS,
        Archive(
            name="list_attr_celeba.txt",
            gives={"": "celeba/list_attr_celeba.txt"},
            urls=_drive("0B7EVK8r0v71pblRyaVFSWGxPY0U"),
            size=26_721_026,
            md5="75e246fa4810816ffd6ee81facbd244c",
            source=_CELEBA_PAGE,
        ),
    ),
    "cifar100": (
        Archive(
            name="cifar-100-python.tar.gz",
            gives={"cifar-100-python": "cifar100/cifar-100-python"},
            urls=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
            size=169_001_437,
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            source="www.cs.toronto.edu/~kriz/cifar.html",
        ),
    ),
    "indoor67": (
        Archive(
            name="indoorCVPR_09.tar",
            gives={"Images": "indoor67/Images"},
            source="web.mit.edu/torralba/www/indoor.html",
        ),
        *(
            Archive(
                name=name,
                gives={"": f"indoor67/{name}"},
                source="web.mit.edu/torralba/www/indoor.html",
            )
            for name in ("TrainImages.txt", "TestImages.txt")
        ),
    ),
    "stl10": (
        Archive(
            name="stl10_binary.tar.gz",
            gives={"stl10_binary": "stl10_binary"},
            urls=("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",),
            size=2_640_397_119,
            sha256="f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
            md5="91f7769df0f17e558f3565bffb0c7dfb",
            source="cs.stanford.edu/~acoates/stl10",
        ),
    ),
    "cub": (
        Archive(
            name="CUB_200_2011.tgz",
            gives={"CUB_200_2011": "CUB_200_2011"},
            urls=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
            size=1_150_585_339,
            sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            md5="97eceeb196236b17998738112f37df78",
            source="data.caltech.edu/records/65de6-vp158",
        ),
        Archive(
            name="segmentations.tgz",
            gives={"segmentations": "segmentations"},
            urls=("https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz",),
            size=39_272_883,
            sha256="dc77f6cffea0cbe2e41d4201115c8f29a6320ecb04fffd2444f51b8066e4b84f",
            md5="4d47ba1228eae64f2fa547c47bc65255",
            source="data.caltech.edu/records/w9d68-gec53",
            read_if={"foreground": "masks"},
        ),
    ),
    "deepfashion": (
        Archive(
            name="img_highres_seg.zip",
            gives={"img_highres": "In-shop Clothes Retrieval Benchmark/Img/img_highres"},
            source="mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html (requires an "
            "agreement, and the password that comes with it to unpack)",
        ),
        *(
            Archive(
                name=f"DeepFashion_segmentation_{part}.json",
                gives={
                    "": "In-shop Clothes Retrieval Benchmark/Anno/segmentation/"
                    f"DeepFashion_segmentation_{part}.json"
                },
                source="mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html (requires "
                "an agreement)",
            )
            for part in ("train", "query", "gallery")
        ),
    ),
    "coco": tuple(
        Archive(
            name=name,
            gives={inside: f"coco/{inside.rpartition('/')[2]}"},
            urls=(f"{_COCO}/{folder}/{name}",),
            size=size,
            sha256=sha256,
            md5=md5,
            source="cocodataset.org/#download",
            read_if={"test": test} if test else {},
        )
        for name, folder, inside, size, sha256, md5, test in (
            (
                "train2017.zip",
                "zips",
                "train2017",
                19_336_861_798,
                "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
                "cced6f7f71b7629ddf16f17bbcfab6b2",
                "",
            ),
            (
                "val2017.zip",
                "zips",
                "val2017",
                815_585_330,
                "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
                "442b8da7639aecaf257c1dceb8ba8c80",
                "val2017",
            ),
            (
                "annotations_trainval2017.zip",
                "annotations",
                "annotations",
                252_907_541,
                "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
                "f4bbac642086de4f52a3fdda2de5fa2c",
                "",
            ),
            (
                "test2017.zip",
                "zips",
                "test2017",
                6_646_970_404,
                "c7908c3c9f94ba2f3340ebbeec58c25db6be8774f18d68c2f15d0e369d95baba",
                "77ad2c53ac5d0aea611d422c0938fb35",
                "test2017",
            ),
            (
                "image_info_test2017.zip",
                "annotations",
                "annotations/image_info_test2017.json",
                None,
                "",
                "",
                "test2017",
            ),
        )
    ),
    "ucf101": (
        Archive(
            name="UCF101_videos.zip",
            gives={"": "UCF-101"},
            urls=("https://storage.googleapis.com/thumos14_files/UCF101_videos.zip",),
            size=6_960_400_115,
            sha256="dabf56f573cd19c79e096563529fec8126a2a34e18e10c72eb621dd687532b0d",
            same_as=("UCF101.rar",),
            source="www.crcv.ucf.edu/data/UCF101.php (UCF101.rar)",
        ),
        Archive(
            name="UCF101TrainTestSplits-RecognitionTask.zip",
            gives={"ucfTrainTestlist": "ucfTrainTestlist"},
            urls=(
                "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
            ),
            size=113_943,
            sha256="5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
            source="www.crcv.ucf.edu/data/UCF101.php",
        ),
    ),
    "pascal_part": (
        Archive(
            name="trainval.tar.gz",
            gives={"Annotations_Part": "VOCdevkit_2010/Annotations_Part"},
            urls=("http://roozbehm.info/pascal-parts/trainval.tar.gz",),
            source="roozbehm.info/pascal-parts/pascal-parts.html",
        ),
        Archive(
            name="VOCtrainval_03-May-2010.tar",
            gives={"VOCdevkit/VOC2010": "VOCdevkit_2010/VOC2010"},
            urls=("http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",),
            source="host.robots.ox.ac.uk/pascal/VOC/voc2010",
        ),
    ),
    "voc2012": (
        Archive(
            name="VOCtrainval_11-May-2012.tar",
            gives={"VOCdevkit/VOC2012": "VOCdevkit/VOC2012"},
            urls=("http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",),
            size=1_999_639_040,
            md5="6cd6e144f989b92b3379bac3b3de84fd",
            source="host.robots.ox.ac.uk/pascal/VOC/voc2012",
        ),
    ),
    "ccp": (
        Archive(
            name="clothing-co-parsing-master.zip",
            gives={"": "ccp"},
            urls=("https://github.com/bearpaw/clothing-co-parsing/archive/refs/heads/master.zip",),
            source="github.com/bearpaw/clothing-co-parsing",
        ),
    ),
    "vgg16": _weights("vgg16-397923af.pth"),
    "vgg19": _weights("vgg19-dcbb9e9d.pth"),
    "resnet50": _weights("resnet50-0676ba61.pth"),
    "resnet152": _weights("resnet152-394f9c45.pth"),
    "resnet18": _weights("resnet18-f37072fd.pth"),
    "raft_large": _weights("raft_large_C_T_SKHT_V2-ff5fadd5.pth"),
    "raft_small": _weights("raft_small_C_T_V2-01064c6d.pth"),
    "alexnet": _weights("alexnet-owt-7be5be79.pth"),
    "deepcluster_alexnet": (
        Archive(
            name="deepcluster_alexnet.pth",
            gives={"": "weights/deepcluster_alexnet.pth"},
            urls=("https://s3.amazonaws.com/deepcluster/alexnet/checkpoint.pth.tar",),
            source="github.com/facebookresearch/deepcluster (its alexnet/checkpoint.pth.tar, "
            "renamed)",
        ),
    ),
    "inception": (
        Archive(
            name="pt_inception-2015-12-05-6726825d.pth",
            gives={"": "weights/pt_inception-2015-12-05-6726825d.pth"},
            urls=(
                "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                "pt_inception-2015-12-05-6726825d.pth",
            ),
            sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            source="github.com/mseitzer/pytorch-fid",
        ),
    ),
    # Weights that authors released. Of PatchVAE there are none.
    "unsup_parts_cub": (
        Archive(
            name="unsup_parts_cub_model_60000.pth",
            gives={"": "weights/unsup_parts/cub_model_60000.pth"},
            urls=(f"{_UNSUP_PARTS}/CUB/model_60000.pth",),
            source="github.com/subhc/unsup-parts (its CUB model_60000.pth, 181 MB, renamed)",
        ),
    ),
    "unsup_parts_deepfashion": (
        Archive(
            name="unsup_parts_deepfashion_model_100000.pth",
            gives={"": "weights/unsup_parts/deepfashion_model_100000.pth"},
            urls=(f"{_UNSUP_PARTS}/DeepFashion/model_100000.pth",),
            source="github.com/subhc/unsup-parts (its DeepFashion model_100000.pth, 181 MB, "
            "renamed)",
        ),
    ),
    "scops_cub": (
        Archive(
            name="scops_cub_model_60000.pth",
            gives={"": "weights/scops/cub_model_60000.pth"},
            urls=(
                f"https://raw.githubusercontent.com/NVlabs/SCOPS/{_SCOPS_COMMIT}/umr/"
                "model_60000.pth",
            ),
            git_blob="707240698fa34f5f36819dccdcfb16133e8509a5",
            source="github.com/NVlabs/SCOPS (its umr/model_60000.pth, renamed)",
        ),
    ),
    "scops_celeba": (
        Archive(
            name="snapshots_CelebA.tar.gz",
            gives={
                "snapshots_CelebA/SCOPS_K8/model_100000.pth": (
                    "weights/scops/celeba_k8_model_100000.pth"
                )
            },
            source="the authors of github.com/NVlabs/SCOPS (the address in its download_CelebA.sh "
            "no longer answers)",
        ),
    ),
    **{
        f"fv_vae_split{i}": (
            Archive(
                name=f"caffe_vae_weights_ucf101_split{i}_vgg19.mat",
                gives={"": f"weights/fv_vae/caffe_vae_weights_ucf101_split{i}_vgg19.mat"},
                urls=(
                    f"https://raw.githubusercontent.com/fv-vae/fv-vae/{_FV_VAE_COMMIT}/vae_models/"
                    f"caffe_vae_weights_ucf101_split{i}_vgg19.mat",
                ),
                size=size,
                sha256=sha256,
                source="github.com/fv-vae/fv-vae (its vae_models)",
            ),
        )
        for i, size, sha256 in (
            (1, 979_299, "b3340881f538ddb878e52fad86a8c4fb5a74342f678aa076756af796a2bfc98e"),
            (2, 979_312, "8b60055dfb9d528709e698c40498f7eec3f229e599fe6a9f98045b2bc882e7e2"),
            (3, 979_375, "5772bf174a5ea66049f0bce260e828196d333084e02aa14e79863d8cb93cf3c8"),
        )
    },
    **{
        f"dlp_{data}": (
            Archive(
                name=f"dlp_{data}_gauss_pointnetpp{suffix}.pth",
                gives={"": f"weights/dlp/dlp_{data}_gauss_pointnetpp{suffix}.pth"},
                source=f"mega.nz/file/{key} (linked in {_DLP})",
            ),
        )
        for data, suffix, key in (
            ("celeba", "_feat", "ZAkiDSIQ#ndtlzAPwG42TEGZmuADAzR1Wo0AZx2k__qyWUfcOkQc"),
            ("traffic", "", "9cN0HAYQ#K9AvKsWemA5hvk9WleleautIdQu2Euezf8UOI7aKUtE"),
            ("clevrer", "", "VINjRZCL#rJ25UPXlYJUxWPaP7gDEbxjVZaayey5JB6x9P5Z__CU"),
        )
    },
}


def archives(name: str) -> tuple[Archive, ...]:
    """Return the files of a data set, or of a network's weights.

    Raises:
        BadInput: the table has no such name; the message suggests the nearest one.
    """
    if name not in ARCHIVES:
        raise BadInput(f"there are no files to fetch for '{name}'; {nearest(name, list(ARCHIVES))}")
    return ARCHIVES[name]


def files_read(reader: str, settings: Any) -> tuple[Archive, ...]:
    """Return the files that a reader reads with its settings; empty if it has no archives."""
    return tuple(
        file
        for file in ARCHIVES.get(reader, ())
        if all(getattr(settings, key) == value for key, value in file.read_if.items())
    )
