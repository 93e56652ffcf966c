"""python -m anomaly_lightning.download category=leather|all root=data/mvnet: fetch and unpack MVNet's categories."""

from omegaconf import DictConfig, OmegaConf

from anomaly_lightning.cli import command
from anomaly_lightning.places import CONFIG_DIR


@command("download", configs=CONFIG_DIR / "download", modules=("pooch", "requests"))
def main(cfg: DictConfig) -> None:
    """Fetch what the config names, or unpack an archive that was fetched by hand."""
    from rich.console import Console

    from anomaly_lightning.data.download import download

    download(OmegaConf.to_container(cfg, resolve=True), Console())  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
