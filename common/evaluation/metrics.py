"""What is measured of models and runs: for every metric its words, its unit and which way is better."""

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A row of METRICS."""

    title: str  # where people read
    unit: Literal["", "%"] = ""  # `%`: a fraction, shown as a percentage
    better: Literal["higher", "lower", ""] = ""
    panel: str = ""  # of the curves; empty: none
    least_classes: int = 0  # with fewer classes it says nothing and is left out


METRICS = {  # the last part of a metric's name: `top1` of `val/top1`
    "loss": Metric("loss", better="lower", panel="Loss"),
    "lr": Metric("learning rate", panel="Learning rate"),
    "top1": Metric("top-1", "%", "higher", panel="Top-1 accuracy"),
    "top5": Metric("top-5", "%", "higher", least_classes=6),
    "agreement": Metric("agreement with the teacher", "%", "higher", panel="Agreement with the teacher"),
    "kl": Metric("KL from the teacher", better="lower"),
    "teacher_top1": Metric("the teacher's top-1", "%", "higher"),
    "img2txt_recall@1": Metric("image to text recall@1", "%", "higher", panel="Recall@1"),
    "img2txt_recall@5": Metric("image to text recall@5", "%", "higher"),
    "img2txt_recall@10": Metric("image to text recall@10", "%", "higher"),
    "txt2img_recall@1": Metric("text to image recall@1", "%", "higher", panel="Recall@1"),
    "txt2img_recall@5": Metric("text to image recall@5", "%", "higher"),
    "txt2img_recall@10": Metric("text to image recall@10", "%", "higher"),
    "nll": Metric("negative log-likelihood", better="lower"),
    "perplexity": Metric("perplexity", better="lower", panel="Perplexity"),
    "cider": Metric("CIDEr-D", better="higher", panel="CIDEr-D"),
    "bleu4": Metric("BLEU-4", "%", "higher"),
    "psnr": Metric("PSNR in dB", better="higher", panel="PSNR in dB"),
    "mse": Metric("mean square error", better="lower"),
    "rmse": Metric("RMSE in metres", better="lower", panel="RMSE in metres"),
    "abs_rel": Metric("relative error", "%", "lower"),
    "log10": Metric("error of log10", better="lower"),
    "delta1": Metric("within 1.25", "%", "higher"),
    "delta2": Metric("within 1.25^2", "%", "higher"),
    "delta3": Metric("within 1.25^3", "%", "higher"),
    "pq": Metric("panoptic quality", "%", "higher", panel="Panoptic quality"),
    "sq": Metric("segmentation quality", "%", "higher"),
    "rq": Metric("recognition quality", "%", "higher"),
    "pq_things": Metric("PQ of things", "%", "higher"),
    "pq_stuff": Metric("PQ of stuff", "%", "higher"),
    "reward": Metric("reward", better="higher", panel="Reward"),
    "images_per_second": Metric("images per second", better="higher", panel="Images per second"),
    "images_per_second_per_core": Metric(
        "images per second and core", better="higher", panel="Images per second and core"
    ),
}


def row(name: str) -> Metric:
    """The row of a metric called SPLIT/METRIC or METRIC; of one that the table lacks, its words alone."""
    last = name.rpartition("/")[2]
    return METRICS.get(last, Metric(last.replace("_", " ")))


def in_words(values: dict[str, float], num_classes: int, *, digits: int = 4, published: str = "") -> str:
    """`top-1 49.00%, top-5 93.00%, loss 1.5000` for a person; what was `published` stands beside the first.

    With 0 classes, as where images have captions, nothing is left out. `recall@1 5.00%, @5 9.00%`: the same is said once.
    """
    words, before = [], ""
    for name, value in values.items():
        if 0 < num_classes < row(name).least_classes:
            continue
        same, at, depth = row(name).title.rpartition("@")
        words.append(f"{at + depth if at and same == before else row(name).title} {shown(name, value, digits)}")
        before = same
    return ", ".join([words[0] + published, *words[1:]])


def shown(name: str, value: float, digits: int = 4) -> str:
    """A value with its unit: a fraction as a percentage, others with `digits` decimals."""
    return f"{value:.2%}" if row(name).unit == "%" else f"{value:.{digits}f}"


def is_better(name: str, value: float, than: float | None) -> bool:
    """Whether a value is better than that of another model, or the first one."""
    return than is None or (value < than if row(name).better == "lower" else value > than)
