// Rewrites a GGUF model so that llama.cpp's CPU backend runs its linear layers fast: every matrix
// of a layer is stored in a type that has a fast kernel, a LoRA adapter merged into it.
//
// setup/weights.py compiles it against the libggml-base of setup/llama.sh. llama.cpp's own
// llama-export-lora cannot be built with loadable backends, and it goes through f16.
#include <ggml.h>
#include <gguf.h>
#include <strings.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr char kUsage[] =
    "usage: fast_weights BASE.gguf OUT.gguf TYPE [--lora ADAPTER.gguf] [--yarn FACTOR]\n"
    "Stores the matrices of BASE's layers as TYPE (f16, q8_0, ...), the adapter added to them.\n"
    "  --yarn FACTOR   write YaRN scaling of the context by FACTOR into the metadata\n";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Arguments {
  std::string base, output, lora;
  ggml_type type = GGML_TYPE_COUNT;
  float yarn = 0;
};

ggml_type parse_type(const std::string& name) {
  for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
    const auto type = static_cast<ggml_type>(i);
    const char* known = ggml_type_name(type);
    // Blocks of more than 32 would not fit the rows of small models.
    if (known != nullptr && strcasecmp(name.c_str(), known) == 0 && ggml_blck_size(type) > 0 &&
        ggml_blck_size(type) <= 32 && !ggml_quantize_requires_imatrix(type)) {
      return type;
    }
  }
  throw UsageError("TYPE is \"" + name +
                   "\"; allowed, in any case: f16, bf16, q8_0, q4_0 and the like");
}

Arguments parse(int argc, char** argv) {
  if (argc < 4) throw UsageError("BASE, OUT and TYPE are needed");
  Arguments a;
  a.base = argv[1];
  a.output = argv[2];
  a.type = parse_type(argv[3]);
  for (int i = 4; i < argc; i += 2) {
    const std::string option = argv[i];
    if (i + 1 == argc) throw UsageError(option + " needs a value");
    if (option == "--lora") {
      a.lora = argv[i + 1];
    } else if (option == "--yarn") {
      a.yarn = std::strtof(argv[i + 1], nullptr);
      if (!(a.yarn >= 1 && a.yarn <= 1024)) throw UsageError("--yarn is 1 to 1024");
    } else {
      throw UsageError("unknown option " + option);
    }
  }
  return a;
}

// A GGUF file with its tensors in memory.
class Gguf {
 public:
  explicit Gguf(const std::string& path) : path_(path) {
    ggml_context* tensors = nullptr;
    file_.reset(gguf_init_from_file(path.c_str(), {.no_alloc = false, .ctx = &tensors}));
    tensors_.reset(tensors);
    if (!file_) throw std::runtime_error(path + " is not a complete GGUF file; fetch it again");
  }

  const gguf_context* get() const { return file_.get(); }
  const std::string& path() const { return path_; }
  int64_t count() const { return gguf_get_n_tensors(get()); }
  ggml_tensor* tensor(int64_t i) const { return find(gguf_get_tensor_name(get(), i)); }
  ggml_tensor* find(const std::string& name) const {
    return ggml_get_tensor(tensors_.get(), name.c_str());
  }
  int64_t key(const std::string& name, gguf_type type) const {
    const int64_t id = gguf_find_key(get(), name.c_str());
    if (id < 0 || gguf_get_kv_type(get(), id) != type) {
      throw std::runtime_error(path_ + " has no usable metadata key " + name);
    }
    return id;
  }
  std::string text(const std::string& name) const {
    return gguf_get_val_str(get(), key(name, GGUF_TYPE_STRING));
  }

 private:
  struct Free {
    void operator()(gguf_context* p) const { gguf_free(p); }
    void operator()(ggml_context* p) const { ggml_free(p); }
  };
  std::string path_;
  std::unique_ptr<gguf_context, Free> file_;
  std::unique_ptr<ggml_context, Free> tensors_;
};

std::vector<float> to_floats(const ggml_tensor& t) {
  std::vector<float> floats(static_cast<size_t>(ggml_nelements(&t)));
  if (t.type == GGML_TYPE_F32) {
    std::memcpy(floats.data(), t.data, floats.size() * sizeof(float));
    return floats;
  }
  const ggml_to_float_t convert = ggml_get_type_traits(t.type)->to_float;
  if (convert == nullptr) {
    throw std::runtime_error(std::string(t.name) + " has the type " + ggml_type_name(t.type) +
                             ", which ggml cannot convert to floats");
  }
  convert(t.data, floats.data(), ggml_nelements(&t));
  return floats;
}

// weight += B A. ggml's ne[0] is the contiguous one: A is [columns, rank], B is [rank, rows].
void add_lora(const ggml_tensor& weight, const ggml_tensor& a, const ggml_tensor& b, float scale,
              std::vector<float>& floats) {
  const int64_t columns = weight.ne[0], rows = weight.ne[1], rank = a.ne[1];
  if (a.ne[0] != columns || b.ne[0] != rank || b.ne[1] != rows) {
    throw std::runtime_error(std::string(weight.name) + ": the adapter has other shapes");
  }
  const std::vector<float> left = to_floats(b), right = to_floats(a);
  for (int64_t row = 0; row < rows; ++row) {
    float* out = &floats[static_cast<size_t>(row * columns)];
    for (int64_t r = 0; r < rank; ++r) {
      const float factor = scale * left[static_cast<size_t>(row * rank + r)];
      const float* in = &right[static_cast<size_t>(r * columns)];
      for (int64_t c = 0; c < columns; ++c) out[c] += factor * in[c];
    }
  }
}

// The scale that llama.cpp applies to a whole adapter is 1; alpha 0 means no further scale.
float lora_scale(const Gguf& lora, const ggml_tensor& b) {
  const float alpha =
      gguf_get_val_f32(lora.get(), lora.key("adapter.lora.alpha", GGUF_TYPE_FLOAT32));
  return alpha == 0 ? 1 : alpha / static_cast<float>(b.ne[0]);
}

// Embeddings stay as they are: prefill looks rows up and multiplies with them once an answer token.
bool is_layer_matrix(const ggml_tensor& t) {
  return std::strncmp(t.name, "blk.", 4) == 0 && ggml_n_dims(&t) == 2;
}

using Bytes = std::vector<std::byte>;

Bytes converted(const ggml_tensor& weight, const Gguf* lora, ggml_type type, int& merged) {
  if (weight.ne[0] % ggml_blck_size(type) != 0) {
    throw std::runtime_error(std::string(weight.name) + " has rows of " +
                             std::to_string(weight.ne[0]) + ", not whole blocks of " +
                             ggml_type_name(type));
  }
  std::vector<float> floats = to_floats(weight);
  const std::string name = weight.name;
  const ggml_tensor* a = lora != nullptr ? lora->find(name + ".lora_a") : nullptr;
  const ggml_tensor* b = lora != nullptr ? lora->find(name + ".lora_b") : nullptr;
  if (a != nullptr && b != nullptr) {
    add_lora(weight, *a, *b, lora_scale(*lora, *b), floats);
    ++merged;
  }
  for (const float f : floats) {
    if (!std::isfinite(f)) throw std::runtime_error(name + " holds a value that is not finite");
  }
  Bytes bytes(ggml_row_size(type, weight.ne[0]) * static_cast<size_t>(weight.ne[1]));
  ggml_quantize_chunk(type, floats.data(), bytes.data(), 0, weight.ne[1], weight.ne[0], nullptr);
  return bytes;
}

void write_yarn(const Gguf& base, float factor, gguf_context* out) {
  const std::string arch = base.text("general.architecture");
  const std::string length = arch + ".context_length", scaling = arch + ".rope.scaling.";
  const uint32_t trained = gguf_get_val_u32(base.get(), base.key(length, GGUF_TYPE_UINT32));
  gguf_set_val_str(out, (scaling + "type").c_str(), "yarn");
  gguf_set_val_f32(out, (scaling + "factor").c_str(), factor);
  gguf_set_val_u32(out, (scaling + "original_context_length").c_str(), trained);
  gguf_set_val_u32(out, length.c_str(),
                   static_cast<uint32_t>(std::lround(static_cast<double>(trained) * factor)));
}

void run(const Arguments& arguments) {
  const Gguf base(arguments.base);
  const std::unique_ptr<Gguf> lora =
      arguments.lora.empty() ? nullptr : std::make_unique<Gguf>(arguments.lora);
  if (lora && lora->text("general.architecture") != base.text("general.architecture")) {
    throw std::runtime_error(lora->path() + " was made for another architecture");
  }
  const std::unique_ptr<gguf_context, void (*)(gguf_context*)> out(gguf_init_empty(), gguf_free);
  gguf_set_kv(out.get(), base.get());
  gguf_remove_key(out.get(), "general.file_type");  // llama.cpp then goes by the tensors
  if (arguments.yarn > 0) write_yarn(base, arguments.yarn, out.get());
  std::vector<Bytes> kept;  // gguf keeps pointers until the file is written
  int merged = 0;
  for (int64_t i = 0; i < base.count(); ++i) {
    const ggml_tensor* tensor = base.tensor(i);
    gguf_add_tensor(out.get(), tensor);
    if (!is_layer_matrix(*tensor)) continue;
    kept.push_back(converted(*tensor, lora.get(), arguments.type, merged));
    gguf_set_tensor_type(out.get(), tensor->name, arguments.type);
    gguf_set_tensor_data(out.get(), tensor->name, kept.back().data());
  }
  if (kept.empty()) throw std::runtime_error(base.path() + " has no layer matrix (blk.*)");
  if (lora && 2 * merged != lora->count()) {
    throw std::runtime_error(lora->path() + " has tensors that do not belong to the model");
  }
  if (!gguf_write_to_file(out.get(), arguments.output.c_str(), /*only_meta=*/false)) {
    throw std::runtime_error("cannot write " + arguments.output + " (disk full?)");
  }
  std::printf("%zu matrices as %s, %d of them merged\n", kept.size(),
              ggml_type_name(arguments.type), merged);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse(argc, argv));
    if (std::fflush(stdout) != 0) throw std::runtime_error("cannot write standard output");
    return 0;
  } catch (const UsageError& error) {
    std::fprintf(stderr, "fast_weights: %s\n%s", error.what(), kUsage);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fast_weights: %s\n", error.what());
    return 1;
  }
}
