// Umbrella header: the whole public C++ surface.
#pragma once

#include "tokensieve/attention.h"
#include "tokensieve/backend.h"
#include "tokensieve/executor.h"
#include "tokensieve/names.h"
#include "tokensieve/profile.h"
#include "tokensieve/select.h"
#include "tokensieve/status.h"
#include "tokensieve/tensor.h"
#include "tokensieve/version.h"
