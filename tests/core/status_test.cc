#include "tokensieve/status.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>

namespace tokensieve {
namespace {

TEST(Status, DefaultIsOk) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kOk);
  EXPECT_STREQ(status.message(), "");
}

TEST(Status, FormatsItsMessage) {
  const Status status = Status::error(StatusCode::kUnsupported, "head_dim is %d", 17);
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
  EXPECT_STREQ(status.message(), "head_dim is 17");
}

TEST(Status, CutsLongMessagesAndTerminatesThem) {
  const std::string text(2000, 'x');
  const Status status = Status::error(StatusCode::kInternal, "%s", text.c_str());
  const std::string message = status.message();
  EXPECT_GT(message.size(), 200u);
  EXPECT_LT(message.size(), text.size());
  EXPECT_EQ(message, text.substr(0, message.size()));
}

TEST(Status, EveryCodeHasItsOwnName) {
  std::set<std::string> names;
  for (int code = 0; code <= static_cast<int>(StatusCode::kOutOfMemory); ++code) {
    names.insert(status_code_name(static_cast<StatusCode>(code)));
  }
  EXPECT_EQ(names.size(), 9u);
  EXPECT_EQ(names.count("unknown"), 0u);
  EXPECT_STREQ(status_code_name(static_cast<StatusCode>(77)), "unknown");
}

TEST(Status, ReturnIfErrorPassesFailuresOn) {
  const auto outer = [](const Status& inner) -> Status {
    TOKENSIEVE_RETURN_IF_ERROR(inner);
    return Status::error(StatusCode::kInternal, "went on");
  };
  EXPECT_EQ(outer(Status::error(StatusCode::kNotFound, "gone")).code(), StatusCode::kNotFound);
  EXPECT_STREQ(outer(Status()).message(), "went on");
}

TEST(Result, HoldsAValueOrAStatus) {
  const Result<int> good(7);
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(*good, 7);
  EXPECT_TRUE(good.status().ok());
  const Result<int> bad(Status::error(StatusCode::kDataError, "cut off"));
  EXPECT_FALSE(bad.ok());
  EXPECT_STREQ(bad.status().message(), "cut off");
}

TEST(Result, MovesItsValueOut) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(3));
  const std::unique_ptr<int> value = std::move(result).value();
  EXPECT_EQ(*value, 3);
}

}  // namespace
}  // namespace tokensieve
