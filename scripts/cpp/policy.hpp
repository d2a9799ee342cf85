// A bundle at work: observations in, action chunks out, memory kept as tensors.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "npz.hpp"

namespace embodied {

using Tensors = std::map<std::string, Ort::Value>;

inline ONNXTensorElementDataType type_of(const std::string& descr) {
  if (descr == "<f4") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  if (descr == "<f8") return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
  if (descr == "<i4") return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  if (descr == "<i8") return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  if (descr == "|u1") return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  if (descr == "|b1") return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
  throw std::runtime_error("arrays of " + descr + " are no inputs of a graph");
}

// A tensor with a copy of `bytes`.
inline Ort::Value tensor(const std::string& descr, const std::vector<int64_t>& shape,
                         const char* data, size_t bytes) {
  Ort::AllocatorWithDefaultOptions allocator;
  Ort::Value value =
      Ort::Value::CreateTensor(allocator, shape.data(), shape.size(), type_of(descr));
  if (bytes > 0) std::memcpy(value.GetTensorMutableRawData(), data, bytes);
  return value;
}

// One ONNX graph.
class Graph {
 public:
  Graph(Ort::Env& env, const std::filesystem::path& file, const Ort::SessionOptions& options)
      : session_(env, file.c_str(), options) {
    Ort::AllocatorWithDefaultOptions allocator;
    for (size_t i = 0; i < session_.GetInputCount(); ++i) {
      inputs_.emplace_back(session_.GetInputNameAllocated(i, allocator).get());
    }
    for (size_t i = 0; i < session_.GetOutputCount(); ++i) {
      outputs_.emplace_back(session_.GetOutputNameAllocated(i, allocator).get());
    }
  }

  // Runs the graph; of `feed` it takes what it needs. Nothing is copied.
  Tensors run(const std::vector<const Tensors*>& feed) {
    Ort::IoBinding binding(session_);
    for (const std::string& name : inputs_) {
      binding.BindInput(name.c_str(), find(feed, name));
    }
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
    for (const std::string& name : outputs_) binding.BindOutput(name.c_str(), memory);
    session_.Run(Ort::RunOptions{nullptr}, binding);
    std::vector<Ort::Value> values = binding.GetOutputValues();
    Tensors made;
    for (size_t i = 0; i < values.size(); ++i) made.emplace(outputs_[i], std::move(values[i]));
    return made;
  }

  // A number that the export wrote into the graph.
  int number(const char* key) const {
    Ort::AllocatorWithDefaultOptions allocator;
    const auto text =
        session_.GetModelMetadata().LookupCustomMetadataMapAllocated(key, allocator);
    if (!text) throw std::runtime_error(std::string("a graph lacks ") + key + "; export again");
    return std::stoi(text.get());
  }

 private:
  static const Ort::Value& find(const std::vector<const Tensors*>& feed,
                                const std::string& name) {
    for (const Tensors* tensors : feed) {
      const auto found = tensors->find(name);
      if (found != tensors->end()) return found->second;
    }
    throw std::runtime_error("a graph needs " + name + ", which was not given");
  }

  Ort::Session session_;
  std::vector<std::string> inputs_, outputs_;
};

// The policy, for one robot. `memory` may be read, replaced and saved between calls.
class Policy {
 public:
  // Loads the graphs for a batch of one. Hashes are not compared here: check a bundle once with
  // `embodied.serve.read_bundle`, where it arrives.
  explicit Policy(const std::filesystem::path& bundle, int threads = 1)
      : env_(ORT_LOGGING_LEVEL_ERROR, "embodied"),
        observe_(env_, bundle / "observe-1.onnx", options(threads)),
        act_(env_, bundle / "act-1.onnx", options(threads)),
        steps_(act_.number("act_steps")) {
    for (const auto& [name, array] : npz::read(bundle / "initial.npz")) {
      memory.emplace("state." + name,
                     tensor(array.descr, array.shape, array.bytes.data(), array.bytes.size()));
    }
  }

  // One memory tick. `given` holds "obs.<key>" for every observation, "time_s" float32[1] and
  // "reset" bool[1].
  void observe(const Tensors& given) {
    Tensors made = observe_.run({&given, &memory});
    work_.clear();
    for (auto& [name, value] : made) {
      const bool next = name.rfind("next.", 0) == 0;
      if (next) {
        memory.insert_or_assign("state." + name.substr(5), std::move(value));
      } else {
        work_.emplace(name, std::move(value));
      }
    }
  }

  // The action chunk float32[1, K, A] for what was observed last. `noise` float32[1, ...] is the
  // only randomness.
  Ort::Value act(Ort::Value noise) {
    Tensors carried;
    carried.emplace("carried", std::move(noise));
    for (int64_t step = 0;; ++step) {
      carried.insert_or_assign(
          "step", tensor("<i8", {}, reinterpret_cast<const char*>(&step), sizeof(step)));
      Tensors made = act_.run({&carried, &work_});
      if (step + 1 == steps_) return std::move(made.at("chunk"));
      carried.insert_or_assign("carried", std::move(made.at("carry")));
    }
  }

  Tensors memory;  // "state.<name>"

 private:
  static Ort::SessionOptions options(int threads) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(threads);
    options.SetInterOpNumThreads(1);
    return options;
  }

  Ort::Env env_;
  Graph observe_, act_;
  int64_t steps_;
  Tensors work_;  // what observing hands to acting
};

}  // namespace embodied
