"""How to call endpoints by hand: what a command prints after it has brought models up."""

from collections.abc import Collection, Sequence

from serving.models import Endpoint


def describe(
    endpoints: Sequence[Endpoint], counted: Collection[str] = (), key_name: str = ""
) -> str:
    """URLs and model ids of endpoints, and calls of the first that writes and that classifies.

    Args:
        endpoints: models that are up, at least one.
        counted: names of models whose engines count for Prometheus.
        key_name: environment variable with the API key that they ask for; empty: none.
    """
    width = max(len(endpoint.model) for endpoint in endpoints)
    lines = []
    for endpoint in endpoints:
        url = endpoint.base_url if endpoint.task == "generate" else f"{endpoint.root_url}/classify"
        lines.append(f"{endpoint.model:<{width}}  {url}")
    for task, calls in (("generate", _writer), ("classify", _classifier)):
        first = next((endpoint for endpoint in endpoints if endpoint.task == task), None)
        if first is not None:
            lines.extend(["", *calls(first, key_name)])
    roots = dict.fromkeys(each.root_url for each in endpoints if each.model in counted)
    if roots:
        lines.extend(["", *(f"Prometheus metrics: {root}/metrics" for root in roots)])
    return "\n".join(lines)


def _writer(endpoint: Endpoint, key_name: str) -> list[str]:
    key = f'os.environ["{key_name}"]' if key_name else '"none"'
    return [
        *_curl(
            f"{endpoint.base_url}/completions",
            f'{{"model": "{endpoint.model}", "prompt": "...", "max_tokens": 32}}',
            key_name,
        ),
        "",
        *(["import os", ""] if key_name else []),
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{endpoint.base_url}", api_key={key})',
        f'reply = client.completions.create(model="{endpoint.model}", prompt="...", seed=1)',
        "print(reply.choices[0].text)",
    ]


def _classifier(endpoint: Endpoint, key_name: str) -> list[str]:
    return _curl(
        f"{endpoint.root_url}/classify",
        f'{{"model": "{endpoint.model}", "input": ["...", "..."]}}',
        key_name,
    )


def _curl(url: str, body: str, key_name: str) -> list[str]:
    key = [f'  -H "Authorization: Bearer ${key_name}" \\'] if key_name else []
    return [f"curl {url} -H 'Content-Type: application/json' \\", *key, f"  -d '{body}'"]
