"""Hold images, and the texts that come with them, against a policy.

    python examples/moderate.py outputs/sample examples/policies/emoji.yaml axe.png --text "for chopping wood"

`hf-customclip moderate` does the same for whole folders, with an audit log. What it says is advice: see
docs/moderation.md.
"""

import argparse

from transformers import AutoModel, AutoProcessor

from hf_customclip import Moderator


def moderate(model: str, policy: str, images: list[str], text: str | None = None) -> list[str]:
    """The action for each image."""
    moderator = Moderator(AutoModel.from_pretrained(model), AutoProcessor.from_pretrained(model), policy)
    verdicts = moderator.check(images, [text] * len(images))
    for image, verdict in zip(images, verdicts, strict=True):
        print(f"{image}: {verdict.action}")
        for finding in verdict.findings:
            print(f"  {finding}")
    return [verdict.action for verdict in verdicts]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("policy")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--text", help="what was written beside the images")
    arguments = parser.parse_args()
    moderate(arguments.model, arguments.policy, arguments.images, arguments.text)
