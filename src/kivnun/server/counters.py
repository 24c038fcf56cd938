"""What `/metrics` tells, in the words of Prometheus; one registry for each server, none for the whole process."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


# A client may call its method anything, and each name would be kept for ever.
METHODS = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"})


class Counters:
    """Counts since the server started; safe to use from several threads."""

    def __init__(self) -> None:
        # When each series began is nothing that anybody asks, and doubles the page.
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "kivnun_requests", "Requests answered.", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "kivnun_request_seconds",
            "Time from a request's headers to the end of its reply.",
            ("route", "method"),
            buckets=LATENCY_SECONDS,
            registry=self.registry,
        )
        self._running = Gauge("kivnun_requests_running", "Requests that are being answered.", registry=self.registry)
        self._first_token = Histogram(
            "kivnun_first_token_seconds",
            "Time from a request to the first token of its answer.",
            buckets=FIRST_TOKEN_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "kivnun_tokens",
            "Tokens of prompts, cached ones among them, and of answers.",
            ("kind",),
            registry=self.registry,
        )
        self._bytes = Counter("kivnun_uploaded_bytes", "Bytes of files that were kept.", registry=self.registry)
        self._facts: dict[str, Gauge] = {}

    def begin_request(self) -> None:
        """A request came."""
        self._running.inc()

    def end_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered, or its client left.

        Args:
            route: With names for what differs, such as `/v1/files/{file_id}`.
            method: Of HTTP.
            status: Of HTTP; 499 where the client left before any reply.
            seconds: How long it took.
        """
        self._running.dec()
        method = method if method in METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """An answer began.

        Args:
            seconds: Since its request came.
        """
        self._first_token.observe(seconds)

    def tokens(self, *, prompt: int = 0, cached: int = 0, answer: int = 0) -> None:
        """Tokens that were read and written.

        Args:
            prompt: Of the prompt.
            cached: How many of those had been computed before.
            answer: Of the answer.
        """
        for kind, count in (("prompt", prompt), ("cached", cached), ("answer", answer)):
            self._tokens.labels(kind).inc(count)

    def uploaded(self, num_bytes: int) -> None:
        """A file was kept.

        Args:
            num_bytes: Its size.
        """
        self._bytes.inc(num_bytes)

    def to_text(self, facts: Mapping[str, float], jobs: Mapping[str, int]) -> bytes:
        """Everything, as Prometheus reads it.

        Args:
            facts: What is so at this moment, such as `pool_models`.
            jobs: The number of jobs by status.
        """
        for name, value in facts.items():
            self._gauge(name, f"{name.replace('_', ' ').capitalize()}, now.").set(value)
        by_status = self._gauge("jobs", "Fine-tuning jobs by status.", ("status",))
        by_status.clear()
        for status, count in jobs.items():
            by_status.labels(status).set(count)
        return generate_latest(self.registry)

    def _gauge(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> Gauge:
        if name not in self._facts:
            self._facts[name] = Gauge(f"kivnun_{name}", meaning, labels, registry=self.registry)
        return self._facts[name]
