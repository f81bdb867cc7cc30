"""Every form of scaling law that can be fitted, by name."""

from collections.abc import Mapping

from models import power_laws
from models.forms import Law
from models.formulas import DataConstrained, KaplanND, PrecisionAware

LAWS: Mapping[str, Law] = {
    law.name: law
    for law in (
        power_laws.CHINCHILLA,
        power_laws.KAPLAN_N,
        power_laws.KAPLAN_D,
        power_laws.KAPLAN_C,
        KaplanND(),
        power_laws.COMPUTE,
        DataConstrained(),
        power_laws.OVER_TRAINING,
        PrecisionAware(),
    )
}


def named(name: str) -> Law:
    """The law of a name. Raises ValueError with the names that there are."""
    if name not in LAWS:
        raise ValueError(f"no law is called {name!r}; there are {', '.join(LAWS)}")
    return LAWS[name]
