"""A manifest with everything in it, parts of which a test replaces."""

from factory.bundle.manifest import BaseIdentity, Manifest, Sampling


def make_manifest(**changes):
    """Return a manifest."""
    fields = {
        "name": "tolvane",
        "base": BaseIdentity(
            name="smollm2", sha256="7" * 64, licence="apache-2.0", source="package:x/y.gguf"
        ),
        "system": "",
        "default_file": "model-Q8_0.gguf",
        "sampling": Sampling(num_ctx=4096, num_predict=256, temperature=0.0, stop=("<|im_end|>",)),
        "lineage": {},
        "counts": {},
        "files": (),
        "left_out": (),
        "gates": (),
        "scores": (),
    }
    return Manifest(**(fields | changes))
