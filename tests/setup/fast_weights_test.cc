// setup/fast_weights.cc: the converter as a program, on tiny GGUF files made here.
#include <ggml.h>
#include <gguf.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

constexpr int64_t kColumns = 64, kRows = 48, kRank = 4;
constexpr char kMatrix[] = "blk.0.attn_q.weight";

float value(int64_t i) { return static_cast<float>(std::sin(0.7 * static_cast<double>(i))); }

struct Contents {
  gguf_context* file = nullptr;
  ggml_context* tensors = nullptr;
  ~Contents() {
    gguf_free(file);
    ggml_free(tensors);
  }
  void add(const char* name, ggml_type type, std::vector<int64_t> ne, int64_t seed) {
    ggml_tensor* t = ggml_new_tensor(tensors, type, static_cast<int>(ne.size()), ne.data());
    ggml_set_name(t, name);
    std::vector<float> floats(static_cast<size_t>(ggml_nelements(t)));
    for (size_t i = 0; i < floats.size(); ++i) floats[i] = value(static_cast<int64_t>(i) + seed);
    ggml_quantize_chunk(type, floats.data(), t->data, 0, ggml_nrows(t), ne[0], nullptr);
    gguf_add_tensor(file, t);
  }
  std::vector<float> floats(const char* name) const {
    const ggml_tensor* t = ggml_get_tensor(tensors, name);
    std::vector<float> out(static_cast<size_t>(ggml_nelements(t)));
    if (t->type == GGML_TYPE_F32) {
      std::copy_n(static_cast<const float*>(t->data), out.size(), out.data());
    } else {
      ggml_get_type_traits(t->type)->to_float(t->data, out.data(), ggml_nelements(t));
    }
    return out;
  }
};

class FastWeights : public testing::Test {
 protected:
  FastWeights() {
    char name[] = "/tmp/tokensieve-weights-XXXXXX";
    folder_ = mkdtemp(name);
    init(base_);
    gguf_set_val_u32(base_.file, "llama.context_length", 8192);
    gguf_set_val_u32(base_.file, "general.file_type", 3);
    base_.add("token_embd.weight", GGML_TYPE_Q4_1, {kColumns, 32}, 1);
    base_.add("blk.0.attn_norm.weight", GGML_TYPE_F32, {kColumns}, 2);
    base_.add(kMatrix, GGML_TYPE_Q4_1, {kColumns, kRows}, 3);
    init(lora_);
    add_lora(kMatrix, kRows);
  }
  ~FastWeights() override { fs::remove_all(folder_); }

  static void init(Contents& c) {
    c.file = gguf_init_empty();
    c.tensors = ggml_init({.mem_size = 1 << 20, .mem_buffer = nullptr, .no_alloc = false});
    gguf_set_val_str(c.file, "general.architecture", "llama");
    gguf_set_val_f32(c.file, "adapter.lora.alpha", 2);
  }
  void add_lora(const std::string& matrix, int64_t rows) {
    lora_.add((matrix + ".lora_a").c_str(), GGML_TYPE_F16, {kColumns, kRank}, 4);
    lora_.add((matrix + ".lora_b").c_str(), GGML_TYPE_F16, {kRank, rows}, 5);
  }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  std::string log() const {
    std::ifstream file(path("log"));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  int run(const std::string& type_and_options) const {
    gguf_write_to_file(base_.file, path("base").c_str(), false);
    gguf_write_to_file(lora_.file, path("lora").c_str(), false);
    return convert(type_and_options);
  }
  int convert(const std::string& type_and_options) const {
    const std::string command = std::string(TOKENSIEVE_FAST_WEIGHTS) + " " + path("base") + " " +
                                path("out") + " " + type_and_options + " > " + path("log") +
                                " 2>&1";
    return WEXITSTATUS(std::system(command.c_str()));
  }
  void read(Contents& c) const {
    c.file = gguf_init_from_file(path("out").c_str(), {.no_alloc = false, .ctx = &c.tensors});
    ASSERT_NE(c.file, nullptr);
  }

  fs::path folder_;
  Contents base_, lora_;
};

TEST_F(FastWeights, MergesTheAdapterIntoTheLayersOnly) {
  ASSERT_EQ(run("f16 --lora " + path("lora")), 0) << log();
  Contents out;
  read(out);
  EXPECT_EQ(ggml_get_tensor(out.tensors, kMatrix)->type, GGML_TYPE_F16);
  for (const char* same : {"token_embd.weight", "blk.0.attn_norm.weight"}) {
    EXPECT_EQ(ggml_get_tensor(out.tensors, same)->type, ggml_get_tensor(base_.tensors, same)->type);
    EXPECT_EQ(out.floats(same), base_.floats(same)) << same;
  }
  const auto before = base_.floats(kMatrix), after = out.floats(kMatrix);
  const auto a = lora_.floats("blk.0.attn_q.weight.lora_a");
  const auto b = lora_.floats("blk.0.attn_q.weight.lora_b");
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t column = 0; column < kColumns; ++column) {
      const auto at = static_cast<size_t>(row * kColumns + column);
      double expected = before[at];
      for (int64_t r = 0; r < kRank; ++r) {  // alpha 2 over rank 4
        expected += 0.5 * b[static_cast<size_t>(row * kRank + r)] *
                    a[static_cast<size_t>(r * kColumns + column)];
      }
      ASSERT_NEAR(after[at], expected, 1e-3 * std::max(1.0, std::abs(expected))) << at;
    }
  }
}

TEST_F(FastWeights, WithoutAnAdapterOnlyTheTypeChanges) {
  ASSERT_EQ(run("f16"), 0) << log();
  Contents out;
  read(out);
  const auto before = base_.floats(kMatrix), after = out.floats(kMatrix);
  for (size_t i = 0; i < before.size(); ++i) ASSERT_NEAR(after[i], before[i], 1e-3) << i;
  EXPECT_LT(gguf_find_key(out.file, "general.file_type"), 0);
  EXPECT_LT(gguf_find_key(out.file, "llama.rope.scaling.type"), 0);
}

TEST_F(FastWeights, YarnGoesIntoTheMetadata) {
  ASSERT_EQ(run("q8_0 --yarn 16"), 0) << log();
  Contents out;
  read(out);
  const auto key = [&](const char* name) { return gguf_find_key(out.file, name); };
  EXPECT_STREQ(gguf_get_val_str(out.file, key("llama.rope.scaling.type")), "yarn");
  EXPECT_EQ(gguf_get_val_f32(out.file, key("llama.rope.scaling.factor")), 16);
  EXPECT_EQ(gguf_get_val_u32(out.file, key("llama.rope.scaling.original_context_length")), 8192u);
  EXPECT_EQ(gguf_get_val_u32(out.file, key("llama.context_length")), 131072u);
  EXPECT_EQ(ggml_get_tensor(out.tensors, kMatrix)->type, GGML_TYPE_Q8_0);
}

TEST_F(FastWeights, TypesAreTakenInAnyCase) {
  for (const char* type : {"Q8_0", "F16", "bF16"}) EXPECT_EQ(run(type), 0) << type << log();
}

TEST_F(FastWeights, AFullDiskIsAnError) {
  ASSERT_EQ(run("f16"), 0);
  const std::string command = std::string(TOKENSIEVE_FAST_WEIGHTS) + " " + path("base") +
                              " /dev/full f16 > " + path("log") + " 2>&1";
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1) << log();
  EXPECT_NE(log().find("cannot write /dev/full"), std::string::npos) << log();
}

TEST_F(FastWeights, RefusesAnAdapterOfAnotherModel) {
  add_lora("blk.7.attn_q.weight", kRows);
  EXPECT_EQ(run("f16 --lora " + path("lora")), 1);
  EXPECT_NE(log().find("do not belong to the model"), std::string::npos) << log();
}

TEST_F(FastWeights, RefusesOtherShapes) {
  gguf_free(lora_.file);
  ggml_free(lora_.tensors);
  init(lora_);
  add_lora(kMatrix, kRows - 1);
  EXPECT_EQ(run("f16 --lora " + path("lora")), 1);
  EXPECT_NE(log().find("other shapes"), std::string::npos) << log();
}

TEST_F(FastWeights, RefusesDamagedFiles) {
  ASSERT_EQ(run("f16"), 0);
  fs::resize_file(path("base"), fs::file_size(path("base")) - 100);
  EXPECT_EQ(convert("f16"), 1);
  EXPECT_NE(log().find("not a complete GGUF file"), std::string::npos) << log();
  EXPECT_EQ(convert("f16 --lora " + path("nothing")), 1);
}

TEST_F(FastWeights, WrongUsageExitsWith2) {
  for (const char* bad : {"q4_k", "fast", "f16 --yarn 0.5", "f16 --yarn", "f16 --merge x"}) {
    EXPECT_EQ(run(bad), 2) << bad << ": " << log();
    EXPECT_NE(log().find("usage"), std::string::npos);
  }
}

}  // namespace
