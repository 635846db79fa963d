"""The study of distillation: small students from scratch, with labels or with a teacher, in equal steps (docs/distillation.md).

    python scripts/distill_study.py TEACHER [--engines bit_pytorch,bit_jax,bit_tf2] [--logdir runs/distill] [--table]

TEACHER is the folder of a run on cifar10-sample. Every cell is a run of its own, with the numbers of the recipe `distill`; the
students with labels take them from `vit_s16_i1k`, which differs by flags alone. The table is made from the runs' folders.
"""

from seeds import parser, table, train_missing

from common.config import TrainConfig

STEPS, PATIENT = 60, 240
COMMON = {
    "dataset": "cifar10-sample", "weights": "none", "batch": 50, "crop": 32, "eval_resize": 40, "batch_eval": 250,
    "eval_every": "0", "checkpoint_every": 0,
}  # fmt: skip
LABELS = {
    "recipe": "vit_s16_i1k", "randaugment_layers": 0, "mixup": 1.0, "base_lr": 0.003, "weight_decay": 3e-4,
}  # fmt: skip
ARMS = {  # what a row of the table is called, and its flags
    "labels": (f"labels, {STEPS} steps", LABELS | {"steps": STEPS}),
    "same": (f"teacher, the same view, {STEPS} steps", {"recipe": "distill", "steps": STEPS}),
    "own": (f"teacher, a view of its own, {STEPS} steps", {"recipe": "distill", "steps": STEPS, "teacher_view": "own"}),
    "labels_patient": (f"labels, {PATIENT} steps", LABELS | {"steps": PATIENT}),
    "same_patient": (f"teacher, the same view, {PATIENT} steps", {"recipe": "distill", "steps": PATIENT}),
    "own_patient": (
        f"teacher, a view of its own, {PATIENT} steps",
        {"recipe": "distill", "steps": PATIENT, "teacher_view": "own"},
    ),
}


def main() -> None:
    flags_of_study = parser(__doc__.splitlines()[0], "runs/distill", ARMS)
    flags_of_study.add_argument("teacher", nargs="?", help="folder of a run on cifar10-sample")
    options = flags_of_study.parse_args()

    def config(engine: str, arm: str, seed: int) -> TrainConfig:
        """The flags of one run."""
        flags = COMMON | ARMS[arm][1] | {"name": f"{engine}_{arm}_{seed}", "logdir": str(options.logdir), "seed": seed}
        flags |= {"teacher": options.teacher} if flags["recipe"] == "distill" else {}
        return TrainConfig(**flags, warmup_steps=flags["steps"] // 10)

    if not options.table:
        train_missing(options, config)
    for metric in ("test/top1", "test/agreement"):
        print(metric, table(options.logdir, ARMS, metric, "student"), sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
