"""Judge frozen features by few-shot linear probes and neighbours: `python -m common.probe TRAIN.npz TEST.npz`.

Both files hold `features` [N, D] and `labels` [N], as `evaluate --output` of any engine writes them. The linear probe is
that of big_vision (`evaluators/fewshot_lsr.py`): least squares on whitened features with one large constant among them,
towards +1 for the right class and -1 for the others, with an L2 penalty; the same seeds choose the same images.
"""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import argparse
import importlib.util
import json
import statistics
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.flags import Parser
from common.system.errors import UserError, exit_with_sentence, reason
from common.system.files import open_regular
from common.weights.containers.npz import Npz

BIAS = 100.0  # so large that the penalty hardly touches its weight
L2_PENALTY = 2.0**10
SHOTS = (1, 5, 10, 25)


def main() -> None:
    """The command; a UserError ends with exit status 2."""
    parser = Parser(prog="python -m common.probe", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("train", type=Path, metavar="TRAIN.npz", help="features and labels to learn from")
    parser.add_argument("test", type=Path, metavar="TEST.npz", help="features and labels to judge by")
    parser.add_argument(
        "--shots", type=numbers, default=SHOTS, help="images a class of the linear probes (default: 1,5,10,25)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="choices of these images (default: 3)")
    parser.add_argument("--neighbours", type=int, default=20, help="images that vote; 0: no neighbours (default: 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    with exit_with_sentence():
        args = parser.parse_args()
        if args.seeds < 1 or args.neighbours < 0:
            raise UserError("--seeds must be at least 1 and --neighbours at least 0; correct the flag.")
        train, test = read_features(args.train), read_features(args.test)
        check_pair(train, test, args)
        check_installed()
        results = {f"{shots}-shot": few_shot(*train, *test, shots, args.seeds) for shots in args.shots}
        if args.neighbours:
            results[f"{args.neighbours} neighbours"] = [nearest_neighbours(*train, *test, args.neighbours)]
        print(json.dumps(results) if args.json else "\n".join(f"{n:<14} {spread(v)}" for n, v in results.items()))


def check_installed() -> None:
    """UserError where scikit-learn, which no engine needs, is missing."""
    if not importlib.util.find_spec("sklearn"):
        raise UserError("scikit-learn is not installed; install it with `pip install '.[probe]'`.")


def numbers(text: str) -> tuple[int, ...]:
    """(1, 5) of `1,5`."""
    found = tuple(int(part) for part in text.split(","))
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text} holds a number below 1")
    return found


def read_features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(features [N, D] float64, labels [N]) of a file. UserError where it holds none."""
    try:
        open_regular(path).close()
        with Npz(path) as file:
            file.check_bytes()
            features, labels = file.get("features").astype(np.float64), file.get("labels")
    except (OSError, KeyError, ValueError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        why = getattr(error, "strerror", None) or reason(error)
        raise UserError(f"{path} holds no features and labels ({why}); write it with `evaluate --output`.") from error
    if features.ndim != 2 or labels.shape != features.shape[:1] or labels.dtype.kind not in "iu" or not len(labels):
        raise UserError(
            f"{path} holds features {features.shape} and labels {labels.shape} of {labels.dtype}, expected [N, D] and "
            "[N] integers; write it with `evaluate --output`."
        )
    if not np.isfinite(features).all():
        raise UserError(f"{path} holds features that are not finite; look at the model that gave them.")
    return features, labels


def check_pair(train: tuple, test: tuple, args: argparse.Namespace) -> None:
    """UserError where the two files are not of one model, or too few images are there to learn from."""
    if train[0].shape[1] != test[0].shape[1]:
        raise UserError(
            f"{args.train} holds features of width {train[0].shape[1]} and {args.test} of {test[0].shape[1]}; take both "
            "from one model."
        )
    if args.neighbours > len(train[1]):
        raise UserError(f"--neighbours is {args.neighbours} and {args.train} holds {len(train[1])}; ask for fewer.")


def few_shot(
    features: np.ndarray, labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray, shots: int, seeds: int,
) -> list[float]:  # fmt: skip
    """The accuracy on the test images of a linear probe of `shots` images a class, for every seed."""
    from sklearn.linear_model import Ridge

    classes = range(int(max(labels.max(), test_labels.max())) + 1)
    found = []
    for seed in range(seeds):
        chosen = choose(labels, classes, shots, seed)
        mean, deviation = features[chosen].mean(0), features[chosen].std(0) + 1e-5
        whiten = lambda x, m=mean, d=deviation: np.pad((x - m) / d, ((0, 0), (0, 1)), constant_values=BIAS)
        targets = 2.0 * (labels[chosen][:, None] == np.array(classes)) - 1
        probe = Ridge(alpha=L2_PENALTY, fit_intercept=False).fit(whiten(features[chosen]), targets)
        told = (whiten(test_features) @ probe.coef_.T).argmax(1)
        found.append(float((told == test_labels).mean()))
    return found


def choose(labels: np.ndarray, classes: Sequence[int], shots: int, seed: int) -> np.ndarray:
    """The numbers of `shots` images of every class, or of all where a class has fewer."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == number))[:shots] for number in classes])


def nearest_neighbours(
    features: np.ndarray, labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray, neighbours: int
) -> float:
    """The accuracy of a vote of the training images whose features point into the same direction."""
    from sklearn.neighbors import KNeighborsClassifier

    vote = KNeighborsClassifier(neighbours, metric="cosine", algorithm="brute").fit(features, labels)
    return float((vote.predict(test_features) == test_labels).mean())


def spread(values: Sequence[float]) -> str:
    """min <- median -> max in per cent, or the one value."""
    if len(values) == 1:
        return f"{values[0]:.2%}"
    return f"{min(values):.2%} <- {statistics.median(values):.2%} -> {max(values):.2%}"


if __name__ == "__main__":
    main()
