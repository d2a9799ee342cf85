// Replays a bundle's golden sequence and says how far its answers are from the checkpoint's.
//
//   replay BUNDLE [ACTION_TOLERANCE STATE_TOLERANCE]
//
// The sequence is the policy's own ticks, with resets, and what the checkpoint answered. Exits
// with 0 if actions differ by at most 1e-4, memory by at most 1e-5 (of numbers beyond 1 in
// proportion to their size) and whole numbers and flags not at all; with 1 if they differ by
// more, with 2 if the bundle can't be run.
//
// Build: cmake -S scripts/cpp -B build -DONNXRUNTIME_ROOT=<onnxruntime> && cmake --build build

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <limits>

#include "policy.hpp"

namespace {

using embodied::Policy;
using embodied::Tensors;

// Tick t of an array [T, ...].
Ort::Value at(const npz::Array& array, int64_t t) {
  const std::vector<int64_t> shape(array.shape.begin() + 1, array.shape.end());
  const size_t bytes = array.bytes.size() / static_cast<size_t>(array.shape.front());
  const char* data = array.bytes.data() + static_cast<size_t>(t) * bytes;
  return embodied::tensor(array.descr, shape, data, bytes);
}

// The largest difference of `found` from `expected`; infinite where whole numbers differ.
double distance(const Ort::Value& expected, const Ort::Value& found) {
  const double inf = std::numeric_limits<double>::infinity();
  const auto info = expected.GetTensorTypeAndShapeInfo();
  const auto other = found.GetTensorTypeAndShapeInfo();
  const auto type = info.GetElementType();
  if (info.GetShape() != other.GetShape() || type != other.GetElementType()) return inf;
  const size_t count = info.GetElementCount();
  if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    const size_t item = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? 8
                        : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 ? 4
                                                                      : 1;
    const void *a = expected.GetTensorRawData(), *b = found.GetTensorRawData();
    return count == 0 || std::memcmp(a, b, count * item) == 0 ? 0.0 : inf;
  }
  const float *a = expected.GetTensorData<float>(), *b = found.GetTensorData<float>();
  double most = 0.0;
  for (size_t i = 0; i < count; ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return inf;
    const double scale = std::max(1.0, std::abs(static_cast<double>(a[i])));
    most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]) / scale);
  }
  return most;
}

int replay(const std::filesystem::path& bundle, double action_tolerance,
           double state_tolerance) {
  const npz::Arrays golden = npz::read(bundle / "golden.npz");
  Policy policy(bundle);
  const int64_t ticks = golden.at("time_s").shape.at(0);
  double action = 0.0, state = 0.0;
  for (int64_t t = 0; t < ticks; ++t) {
    Tensors given;
    for (const auto& [name, array] : golden) {
      if (name.rfind("obs.", 0) == 0 || name == "time_s" || name == "reset") {
        given.emplace(name, at(array, t));
      }
    }
    policy.observe(given);
    const Ort::Value chunk = policy.act(at(golden.at("noise"), t));
    action = std::max(action, distance(at(golden.at("chunk"), t), chunk));
  }
  for (const auto& [name, value] : policy.memory) {
    const npz::Array& last = golden.at(name);
    const Ort::Value expected =
        embodied::tensor(last.descr, last.shape, last.bytes.data(), last.bytes.size());
    state = std::max(state, distance(expected, value));
  }
  std::printf("%lld ticks: actions within %.1e, memory within %.1e\n",
              static_cast<long long>(ticks), action, state);
  if (ticks > 0 && action <= action_tolerance && state <= state_tolerance) return 0;
  std::fprintf(stderr, "differs from the checkpoint by more than %.1e and %.1e\n",
               action_tolerance, state_tolerance);
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2 && count != 4) {
    std::fprintf(stderr, "usage: %s BUNDLE [ACTION_TOLERANCE STATE_TOLERANCE]\n", arguments[0]);
    return 2;
  }
  try {
    const double action = count == 4 ? std::stod(arguments[2]) : 1e-4;
    const double state = count == 4 ? std::stod(arguments[3]) : 1e-5;
    return replay(arguments[1], action, state);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
