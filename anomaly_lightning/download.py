"""python -m anomaly_lightning.download category=leather|all root=data/mvnet: fetch and unpack MVNet's categories."""

import hydra
from omegaconf import DictConfig, OmegaConf

from anomaly_lightning.cli import CommandError
from anomaly_lightning.errors import UserError
from anomaly_lightning.places import CONFIG_DIR


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR / "download"), config_name="download")
def main(cfg: DictConfig) -> None:
    """Fetch what the config names, or unpack an archive that was fetched by hand."""
    from rich.console import Console

    from anomaly_lightning.data.download import download

    try:
        download(OmegaConf.to_container(cfg, resolve=True), Console())  # type: ignore[arg-type]
    except UserError as error:
        raise CommandError(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
