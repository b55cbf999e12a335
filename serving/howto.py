"""How to call an endpoint by hand: what a command prints after it has brought models up."""

from collections.abc import Iterable

from serving.models import Endpoint


def describe(endpoints: Iterable[Endpoint]) -> str:
    """URLs and model ids of endpoints, and a curl and an `openai` call of the first.

    Args:
        endpoints: models that are up, at least one.
    """
    shown = list(endpoints)
    width = max(len(endpoint.model) for endpoint in shown)
    lines = [f"{endpoint.model:<{width}}  {endpoint.base_url}" for endpoint in shown]
    first = shown[0]
    return "\n".join(
        [
            *lines,
            "",
            f"curl {first.base_url}/completions -H 'Content-Type: application/json' \\",
            f"""  -d '{{"model": "{first.model}", "prompt": "...", "max_tokens": 32}}'""",
            "",
            "from openai import OpenAI",
            f'client = OpenAI(base_url="{first.base_url}", api_key="none")',
            f'reply = client.completions.create(model="{first.model}", prompt="...", seed=1)',
            "print(reply.choices[0].text)",
        ]
    )
