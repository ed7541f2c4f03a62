// SelectConfig as a JSON object.
#pragma once

#include <string>

#include "core/json_fields.h"
#include "tokensieve/select.h"

namespace tokensieve {

enum class SelectKeys {
  kProfile,  // what profiles hold: no policies of a call; written: only what is used
  kAll,      // every field
};

// What the object does not name stays as it is in `select`; after an error all does.
Status read_select(const Json& object, const std::string& where, SelectKeys keys,
                   SelectConfig& select);
Json select_json(const SelectConfig& select, SelectKeys keys);

}  // namespace tokensieve
