"""Other libraries, each an extra and loaded when it is used.

- `summary`: a memory's numbers in sections, for people; `console` prints them (rich, if it is there)
- `plots`: pictures of them (matplotlib)
- `prometheus`: them for a Prometheus server to scrape (prometheus-client)
- `arrow`: pages, the registry and the history as Arrow tables (pyarrow); `records` has their rows
- `lightning`: MMSBCallback for epochs of a `lightning.Trainer`
- `huggingface`: MMSBCallback for steps of a `transformers.Trainer`
"""
