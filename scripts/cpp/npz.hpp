// Reads .npz files as `numpy.savez` writes them: members stored, not compressed.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace npz {

// An array in C order. `descr` is numpy's: "<f4", "<i8", "|u1", "|b1".
struct Array {
  std::string descr;
  std::vector<int64_t> shape;
  std::vector<char> bytes;

  // Bytes of one element.
  size_t item() const { return std::stoul(descr.substr(2)); }

  // Elements of the whole array.
  size_t size() const { return bytes.size() / item(); }
};

using Arrays = std::map<std::string, Array>;

namespace detail {

// A little-endian whole number of `Number`'s size; both formats are little-endian.
template <typename Number>
Number number(const std::vector<char>& file, size_t at) {
  Number value = 0;
  if (at > file.size() || file.size() - at < sizeof(Number)) {
    throw std::runtime_error("the file ends too early");
  }
  for (size_t i = sizeof(Number); i-- > 0;) {
    value = static_cast<Number>((value << 8) | static_cast<unsigned char>(file[at + i]));
  }
  return value;
}

// What stands behind `'key':` in the header of a .npy member.
inline std::string field(const std::string& header, const std::string& key, const char* until) {
  const size_t name = header.find("'" + key + "':");
  const size_t start =
      name == std::string::npos ? name : header.find_first_not_of(' ', name + key.size() + 3);
  const size_t end = start == std::string::npos ? start : header.find_first_of(until, start + 1);
  if (end == std::string::npos) throw std::runtime_error("a member's header lacks " + key);
  return header.substr(start, end - start);
}

inline Array parse(const std::vector<char>& file, size_t at, size_t length) {
  if (at > file.size() || file.size() - at < length || length < 12 ||
      std::memcmp(&file[at], "\x93NUMPY", 6) != 0) {
    throw std::runtime_error("a member is no .npy array");
  }
  const bool first = file[at + 6] == 1;  // version 1 has a header length of two bytes
  const size_t start = at + (first ? 10 : 12);
  const size_t header = first ? number<uint16_t>(file, at + 8) : number<uint32_t>(file, at + 8);
  if (start + header > at + length) throw std::runtime_error("a member's header is too long");
  const std::string text(&file[start], header);
  if (field(text, "fortran_order", ",}") != "False") {
    throw std::runtime_error("a member is in Fortran order; store it in C order");
  }
  Array array;
  array.descr = field(text, "descr", ",}").substr(1, 3);
  const std::string kinds = "<f4 <i8 |u1 |b1 <i4 <f8";
  if (array.descr.size() != 3 || kinds.find(array.descr) == std::string::npos) {
    throw std::runtime_error("a member has dtype " + array.descr + ", expected one of " + kinds);
  }
  size_t count = 1;
  const std::string shape = field(text, "shape", ")");
  for (size_t i = shape.find_first_of("0123456789"); i != std::string::npos;) {
    const size_t end = shape.find_first_not_of("0123456789", i);
    array.shape.push_back(std::stoll(shape.substr(i, end - i)));
    count *= static_cast<size_t>(array.shape.back());
    i = end == std::string::npos ? end : shape.find_first_of("0123456789", end);
  }
  array.bytes.assign(file.begin() + start + header, file.begin() + at + length);
  if (array.bytes.size() != count * array.item()) {
    throw std::runtime_error("a member does not hold as many bytes as its shape says");
  }
  return array;
}

}  // namespace detail

// Returns the arrays of an .npz, by name.
//
// Throws std::runtime_error for a file that can't be read, or with compressed members.
inline Arrays read(const std::filesystem::path& path) {
  using detail::number;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot open " + path.string());
  const std::vector<char> file{std::istreambuf_iterator<char>(stream), {}};
  try {
    // The list of members stands at the end; the record that tells where is the last 22 bytes.
    const size_t end = file.size() < 22 ? file.size() : file.size() - 22;
    if (number<uint32_t>(file, end) != 0x06054b50) throw std::runtime_error("it is no .npz");
    Arrays arrays;
    size_t at = number<uint32_t>(file, end + 16);
    for (int left = number<uint16_t>(file, end + 10); left > 0; --left) {
      if (number<uint16_t>(file, at + 10) != 0) {
        throw std::runtime_error("its members are compressed; write it with numpy.savez");
      }
      const size_t length = number<uint32_t>(file, at + 24);
      const size_t name = number<uint16_t>(file, at + 28);
      const size_t behind = number<uint16_t>(file, at + 30) + number<uint16_t>(file, at + 32);
      const size_t local = number<uint32_t>(file, at + 42);
      if (at + 46 + name > file.size() || name < 4) throw std::runtime_error("it is cut off");
      const std::string key(&file[at + 46], name - 4);  // without ".npy"
      const size_t data =
          local + 30 + number<uint16_t>(file, local + 26) + number<uint16_t>(file, local + 28);
      arrays[key] = detail::parse(file, data, length);
      at += 46 + name + behind;
    }
    return arrays;
  } catch (const std::exception& error) {
    throw std::runtime_error(path.string() + ": " + error.what());
  }
}

}  // namespace npz
