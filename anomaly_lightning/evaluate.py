"""python -m anomaly_lightning.evaluate checkpoint=...: the metrics of a trained detector, from its checkpoint alone."""

from omegaconf import DictConfig

from anomaly_lightning.cli import command


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Score the test images of the run's category, or of another folder, and write what training would write.

    With normals= the promises are held against good parts from another time instead.
    """
    if cfg.normals is not None:
        from anomaly_lightning.upkeep.evaluating import evaluate as try_promises

        try_promises(cfg)
        return
    from anomaly_lightning.training.evaluation import evaluate

    evaluate(cfg)


if __name__ == "__main__":
    main()
