"""python -m anomaly_lightning.serve bundle=...: a trained model behind HTTP, with a page for people."""

from omegaconf import DictConfig, OmegaConf

from anomaly_lightning.cli import command


@command("serve", extra="serve")
def main(cfg: DictConfig) -> None:
    """Serve until SIGINT or SIGTERM; what was taken is answered."""
    from anomaly_lightning.serving.run import serve

    serve({str(key): value for key, value in OmegaConf.to_container(cfg, resolve=True).items()})  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
