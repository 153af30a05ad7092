"""Metrics for Prometheus in its protobuf format, which alone has native histograms."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from io import BytesIO
from typing import Any

from blkiomon.formats.openmetrics import NATIVE_SCHEMA, Histogram

_MEDIA_TYPE = "application/vnd.google.protobuf"
_PARAMETERS = {"proto": "io.prometheus.client.metricfamily", "encoding": "delimited"}

CONTENT_TYPE = f"{_MEDIA_TYPE}; proto=io.prometheus.client.MetricFamily; encoding=delimited"

ZERO_THRESHOLD = 2.0**-128
"""Values up to this one count as 0."""

_KINDS = {"counter": 0, "gauge": 1, "histogram": 4}
"""The numbers of the enum MetricType."""

_MESSAGES = {
    "LabelPair": "string name 1, string value 2",
    "Value": "double value 1",
    "Bucket": "uint64 cumulative_count 1, double upper_bound 2",
    "BucketSpan": "sint32 offset 1, uint32 length 2",
    "Histogram": "uint64 sample_count 1, double sample_sum 2, Bucket* bucket 3, sint32 schema 5,"
    " double zero_threshold 6, uint64 zero_count 7, BucketSpan* positive_span 12,"
    " sint64* positive_delta 13",
    "Metric": "LabelPair* label 1, Value gauge 2, Value counter 3, Histogram histogram 7",
    "MetricFamily": "string name 1, string help 2, int32 type 3, Metric* metric 4",
}
"""The fields of each message that are sent: type (``*``: repeated), name and number.

Prometheus has a message for each kind of "Value", and an enum for the type: the bytes are the same.
"""


@cache
def family_class() -> Any:
    """The class of the message MetricFamily; None if the library protobuf is not installed."""
    try:
        from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
        from google.protobuf.descriptor_pool import DescriptorPool
        from google.protobuf.message_factory import GetMessageClass
        from google.protobuf.proto import serialize_length_prefixed  # noqa: F401  # since 5.29
    except ImportError:
        return None
    file = FileDescriptorProto(name="metrics.proto", package="io.prometheus.client")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for field in fields.split(", "):
            kind, name, number = field.split()
            added = described.field.add(name=name, number=int(number))
            if kind.endswith("*"):
                added.label = FieldDescriptorProto.LABEL_REPEATED
            kind = kind.rstrip("*")
            if kind in _MESSAGES:
                added.type_name = kind
            else:
                added.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("io.prometheus.client.MetricFamily"))


def is_preferred(accept: str) -> bool:
    """Whether an ``Accept`` header names this format first among those with the greatest ``q``."""
    best, is_ours = 0.0, False
    for media_range in accept.lower().replace('"', "").split(","):
        kind, *parameters = (part.strip() for part in media_range.split(";"))
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        try:
            quality = float(values.get("q", 1))
        except ValueError:
            continue
        if quality > best:
            best = quality
            is_ours = kind == _MEDIA_TYPE and values.items() >= _PARAMETERS.items()
    return is_ours


def encode(families: Iterable[Any]) -> bytes:
    """What ``Metrics.families`` returned, as messages, each after its length.

    ``family_class`` must not be None.
    """
    from google.protobuf.proto import serialize_length_prefixed

    encoded = BytesIO()
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        message = family_class()(name=name, help=family.documentation, type=_KINDS[family.type])
        for sample in family.samples:
            metric = message.metric.add()
            for label, text in sample.labels.items():
                metric.label.add(name=label, value=text)
            if isinstance(sample.value, Histogram):
                _fill(metric.histogram, sample.value)
            else:
                getattr(metric, family.type).value = sample.value
        serialize_length_prefixed(message, encoded)
    return encoded.getvalue()


def _fill(message: Any, histogram: Histogram) -> None:
    """Copy a histogram into its message."""
    message.sample_count, message.sample_sum = histogram.counts[-1], histogram.sum
    for limit, number in zip(histogram.limits, histogram.counts, strict=True):
        message.bucket.add(upper_bound=limit, cumulative_count=number)
    message.schema, message.zero_threshold = NATIVE_SCHEMA, ZERO_THRESHOLD
    message.zero_count = histogram.zero_count
    for offset, length in histogram.spans or [(0, 0)]:  # [(0, 0)] marks it as native
        message.positive_span.add(offset=offset, length=length)
    message.positive_delta.extend(histogram.deltas)
