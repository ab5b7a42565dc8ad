"""``--bf16``, which makes fairseq train on TPUs."""

from tests.compat_helpers import parse


def test_bf16_is_not_tpu():
    args = parse("--bf16")
    assert args.bf16 and not args.tpu
    assert parse("--bf16", "--tpu").tpu
