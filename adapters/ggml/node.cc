#include "node.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "host_api.h"

namespace tokensieve::ggml {
namespace {

bool native_dtype(ggml_type type, DType& dtype) {
  switch (type) {
    case GGML_TYPE_F32: dtype = DType::kF32; return true;
    case GGML_TYPE_F16: dtype = DType::kF16; return true;
    case GGML_TYPE_BF16: dtype = DType::kBF16; return true;
    default: return false;
  }
}

bool readable(ggml_type type, int64_t head_dim) {
  DType dtype;
  if (native_dtype(type, dtype)) return true;
  const ggml_type_traits* traits = host().get_type_traits(type);
  return traits != nullptr && traits->to_float != nullptr && traits->blck_size > 0 &&
         head_dim % traits->blck_size == 0;
}

// Bytes of one element, or of one block of a quantised type.
size_t unit_bytes(ggml_type type) { return host().get_type_traits(type)->type_size; }

// K and V rows: contiguous within a head, every stride a whole number of elements.
bool regular_strides(const ggml_tensor* t) {
  const size_t unit = unit_bytes(t->type);
  if (t->nb[0] != unit) return false;
  const size_t row = unit * t->ne[0] / host().get_type_traits(t->type)->blck_size;
  for (int axis = 1; axis < 4; ++axis) {
    if (t->nb[axis] % unit != 0) return false;
    if (t->ne[axis] > 1 && t->nb[axis] < row) return false;
  }
  return true;
}

bool mask_ok(const ggml_tensor* mask, const ggml_tensor* q, const ggml_tensor* k) {
  if (mask == nullptr) return true;
  return mask->type == GGML_TYPE_F16 && mask->nb[0] == 2 && mask->nb[1] % 2 == 0 &&
         mask->ne[0] == k->ne[1] && mask->ne[1] >= q->ne[1] && mask->ne[2] == 1 &&
         mask->ne[3] >= 1 && q->ne[3] % mask->ne[3] == 0;
}

bool sinks_ok(const ggml_tensor* sinks, const ggml_tensor* q) {
  if (sinks == nullptr) return true;
  return sinks->type == GGML_TYPE_F32 && sinks->nb[0] == 4 && sinks->ne[0] == q->ne[2];
}

struct OpParams {
  float scale, max_bias, softcap;
};

OpParams op_params(const ggml_tensor* op) {
  OpParams params;
  static_assert(sizeof(params) <= sizeof(op->op_params));
  std::memcpy(&params, op->op_params, sizeof(params));
  return params;
}

// [batch = 1, rows, heads, head_dim] of one stream.
TensorView view(const ggml_tensor* t, DType dtype, size_t offset, int64_t rows, int64_t heads,
                size_t row_bytes, size_t head_bytes, int64_t dim) {
  const auto element = static_cast<int64_t>(dtype_size(dtype));
  const auto row = static_cast<int64_t>(row_bytes) / element;
  const auto head = static_cast<int64_t>(head_bytes) / element;
  return {static_cast<char*>(t->data) + offset, dtype, {1, rows, heads, dim}, {0, row, head, 1}};
}

int32_t number_at(const char* text) {
  char* end = nullptr;
  const long number = std::strtol(text, &end, 10);
  const bool whole = end != text && (*end == '\0' || *end == ' ');
  return whole && number >= 0 && number < (1 << 20) ? static_cast<int32_t>(number) : kUnknownLayer;
}

}  // namespace

bool can_compute(const ggml_tensor* op, int64_t min_queries) {
  const ggml_tensor* q = op->src[0];
  const ggml_tensor* k = op->src[1];
  const ggml_tensor* v = op->src[2];
  if (q == nullptr || k == nullptr || v == nullptr) return false;
  const int64_t dim = q->ne[0];
  const OpParams params = op_params(op);
  return q->ne[1] >= min_queries && k->ne[1] >= q->ne[1] && k->ne[1] <= INT32_MAX &&
         v->ne[1] == k->ne[1] && dim % 16 == 0 && dim >= 16 && dim <= 256 && k->ne[0] == dim &&
         v->ne[0] == dim && k->ne[2] == v->ne[2] && q->ne[2] % k->ne[2] == 0 &&
         k->ne[3] == q->ne[3] && v->ne[3] == q->ne[3] && q->type == GGML_TYPE_F32 &&
         op->type == GGML_TYPE_F32 && readable(k->type, dim) && readable(v->type, dim) &&
         regular_strides(q) && regular_strides(k) && regular_strides(v) && regular_strides(op) &&
         mask_ok(op->src[3], q, k) && sinks_ok(op->src[4], q) && std::isfinite(params.scale) &&
         params.scale > 0 && params.softcap >= 0 && std::isfinite(params.softcap) &&
         params.max_bias >= 0 && std::isfinite(params.max_bias);
}

Node read_node(const ggml_tensor* op, const ggml_tensor* following) {
  const ggml_tensor* q = op->src[0];
  const ggml_tensor* k = op->src[1];
  const ggml_tensor* v = op->src[2];
  const OpParams params = op_params(op);
  Node node;
  node.op = op;
  node.head_dim = static_cast<int32_t>(q->ne[0]);
  node.num_q_heads = static_cast<int32_t>(q->ne[2]);
  node.num_kv_heads = static_cast<int32_t>(k->ne[2]);
  node.num_queries = q->ne[1];
  node.num_cells = k->ne[1];
  node.num_streams = q->ne[3];
  node.scale = params.scale;
  node.max_bias = params.max_bias;
  node.softcap = params.softcap;
  if (op->src[4] != nullptr) node.sinks = static_cast<const float*>(op->src[4]->data);
  node.unpack_kv = k->type != v->type || !native_dtype(k->type, node.kv_dtype);
  if (node.unpack_kv) node.kv_dtype = DType::kF32;

  if (k->view_src != nullptr) node.layer = layer_of_cache(k->view_src->name);
  if (node.layer == kUnknownLayer && following != nullptr && following->src[0] == op) {
    node.layer = layer_of_output(following->name);
  }
  return node;
}

MaskView Node::mask(int64_t stream) const {
  const ggml_tensor* m = op->src[3];
  if (m == nullptr) return {};
  const char* data = static_cast<const char*>(m->data) + (stream % m->ne[3]) * m->nb[3];
  return {reinterpret_cast<const uint16_t*>(data), num_queries, num_cells,
          static_cast<int64_t>(m->nb[1] / 2)};
}

TensorView Node::q(int64_t stream, int64_t first_row, int64_t num_rows) const {
  const ggml_tensor* t = op->src[0];
  return view(t, DType::kF32, stream * t->nb[3] + first_row * t->nb[1], num_rows, num_q_heads,
              t->nb[1], t->nb[2], head_dim);
}

TensorView Node::k(int64_t stream) const {
  const ggml_tensor* t = op->src[1];
  return view(t, kv_dtype, stream * t->nb[3], num_cells, num_kv_heads, t->nb[1], t->nb[2],
              head_dim);
}

TensorView Node::v(int64_t stream) const {
  const ggml_tensor* t = op->src[2];
  return view(t, kv_dtype, stream * t->nb[3], num_cells, num_kv_heads, t->nb[1], t->nb[2],
              head_dim);
}

// The node's own layout is [head_dim, heads, queries, streams].
TensorView Node::out(int64_t stream, int64_t first_row, int64_t num_rows) const {
  return view(op, DType::kF32, stream * op->nb[3] + first_row * op->nb[2], num_rows, num_q_heads,
              op->nb[2], op->nb[1], head_dim);
}

int32_t layer_of_cache(const char* name) {
  if (std::strncmp(name, "cache_", 6) != 0) return kUnknownLayer;
  const char* number = std::strstr(name, "k_l");
  return number != nullptr ? number_at(number + 3) : kUnknownLayer;
}

int32_t layer_of_output(const char* name) {
  constexpr char kPrefix[] = "kqv_out-";
  const size_t length = sizeof(kPrefix) - 1;
  return std::strncmp(name, kPrefix, length) == 0 ? number_at(name + length) : kUnknownLayer;
}

// Same arithmetic as ggml's CPU backend.
void alibi_slopes(int32_t num_heads, float max_bias, std::vector<float>& slopes) {
  const uint32_t heads = static_cast<uint32_t>(num_heads);
  const uint32_t log2_heads = 1u << static_cast<uint32_t>(std::floor(std::log2(heads)));
  const float m0 = std::pow(2.0f, -max_bias / static_cast<float>(log2_heads));
  const float m1 = std::pow(2.0f, -(max_bias / 2.0f) / static_cast<float>(log2_heads));
  slopes.resize(heads);
  for (uint32_t h = 0; h < heads; ++h) {
    slopes[h] = h < log2_heads ? std::pow(m0, static_cast<float>(h + 1))
                               : std::pow(m1, static_cast<float>(2 * (h - log2_heads) + 1));
  }
}

}  // namespace tokensieve::ggml
