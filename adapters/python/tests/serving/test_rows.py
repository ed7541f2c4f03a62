"""Which rows of a step may be read sparsely, without vLLM: its metadata is imitated."""

import dataclasses
import random

import pytest
import torch
from tokensieve.vllm.rows import Row, Step


@dataclasses.dataclass
class Common:
    """The fields of vLLM's CommonAttentionMetadata that are read."""

    query_start_loc: torch.Tensor
    query_start_loc_cpu: torch.Tensor
    seq_lens: torch.Tensor
    seq_lens_cpu_upper_bound: torch.Tensor
    num_reqs: int
    num_actual_tokens: int
    max_query_len: int
    block_table_tensor: torch.Tensor
    slot_mapping: torch.Tensor
    is_prefilling: torch.Tensor | None
    causal: object = True
    positions: torch.Tensor | None = None
    mm_req_doc_ranges: dict | None = None
    rswa_prefix_lens: torch.Tensor | None = None
    dcp_local_seq_lens: torch.Tensor | None = None
    _num_computed_tokens_cache: torch.Tensor | None = None

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


def common(*rows, padding=0, **changes):
    """Of rows (queries, keys, is_prefilling), behind which `padding` rows have no queries."""
    queries = [row[0] for row in rows] + [0] * padding
    starts = torch.tensor([0, *torch.tensor(queries).cumsum(0).tolist()], dtype=torch.int32)
    lengths = torch.tensor([row[1] for row in rows] + [0] * padding, dtype=torch.int32)
    tokens = int(starts[-1])
    made = Common(
        starts, starts.clone(), lengths, lengths.clone(), len(queries), tokens, max(queries),
        torch.arange(len(queries) * 4).view(-1, 4), torch.arange(tokens) + 1000,
        torch.tensor([row[2] for row in rows] + [False] * padding), positions=torch.arange(tokens))
    return made.replace(**changes)


def step(*rows, **changes):
    return Step(common(*rows, **changes), lambda part: part)


def test_each_row_for_itself():
    made = step((1, 900, False), (600, 600, True), (3, 70, False), (512, 2560, True), padding=2)
    assert made.prompts == [Row(1, 1, 601, 600), Row(3, 604, 1116, 2560)]
    assert made.prompts[1].queries == 512
    assert made.dense == {"decode": 2}


def test_the_place_in_the_batch_does_not_matter():
    rows = [(1, 900, False), (600, 600, True), (2, 40, False), (512, 2560, True), (1, 5, True)]
    for seed in range(20):
        order = random.Random(seed).sample(rows, len(rows))
        made = step(*order)
        assert sorted((row.queries, row.keys) for row in made.prompts) == [
            (1, 5), (512, 2560), (600, 600)]
        assert made.dense == {"decode": 2}


@pytest.mark.parametrize("reason, changes", [
    ("rows of vLLM's own", dict(is_prefilling=None)),
    ("not causal", dict(causal=False)),
    ("not causal", dict(causal=torch.tensor([True]))),
    ("bidirectional tokens", dict(mm_req_doc_ranges={0: [(3, 9)]})),
    ("sliding layer", dict(rswa_prefix_lens=torch.tensor([4]))),
    ("context parallel", dict(dcp_local_seq_lens=torch.tensor([300]))),
    ("unknown length", dict(seq_lens_cpu_upper_bound=None)),
])
def test_what_no_layer_reads(reason, changes):
    made = step((600, 600, True), **changes)
    assert not made.prompts and made.dense == {reason: 1}


def test_images_of_other_rows_do_not_matter():
    made = step((600, 600, True), (700, 700, True), mm_req_doc_ranges={1: [(3, 9)], 0: []})
    assert [row.place for row in made.prompts] == [0]


def test_runs_and_sparse_rows_are_the_batch():
    """Of any rows that are left out, every token is in one run exactly, with its own metadata."""
    rows = [(1, 900, False), (600, 600, True), (2, 40, False), (512, 2560, True), (1, 5, True)]
    for seed in range(60):
        rnd = random.Random(seed)
        order = rnd.sample(rows, rnd.randint(1, len(rows)))
        made = step(*order, padding=rnd.randint(0, 2))
        sparse = [row for row in made.prompts if rnd.random() < 0.6]
        covered = [token for row in sparse for token in range(row.begin, row.end)]
        for begin, end, part in made.without(sparse):
            covered += range(begin, end)
            assert part.num_actual_tokens == end - begin == int(part.query_start_loc[-1])
            assert part.query_start_loc.tolist() == part.query_start_loc_cpu.tolist()
            assert part.num_reqs == len(part.seq_lens) == len(part.block_table_tensor)
            assert part.slot_mapping.tolist() == list(range(1000 + begin, 1000 + end))
            assert part.positions.tolist() == list(range(begin, end))
            assert part.max_query_len == int(part.query_start_loc.diff().max())
            first = int(part.block_table_tensor[0, 0]) // 4
            assert [(int(q), int(n)) for q, n in zip(part.query_start_loc.diff(), part.seq_lens)
                    ] == [(q, n) for q, n, _ in order[first:first + part.num_reqs]]
        assert sorted(covered) == list(range(sum(q for q, _, _ in order)))


def test_layers_of_a_step_share_the_metadata_of_its_runs():
    made = step((1, 900, False), (600, 600, True), (512, 2560, True),
                _num_computed_tokens_cache=torch.tensor([899, 0, 2048]))
    first = made.without(made.prompts)
    assert made.without(made.prompts) is first
    assert made.without(made.prompts[1:]) is not first
    assert first[0].metadata._num_computed_tokens_cache is None  # vLLM's, of the whole batch
