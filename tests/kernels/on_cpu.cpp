// Runs a kernel of kernels/*.cu on the CPU, so that it can be put under the sanitizers:
//
//     on_cpu KERNEL DIRECTORY BLOCKS ARGUMENT...
//
// An argument of a pointer is the name of a file of DIRECTORY, which is written back where the kernel may write; of a number,
// the number.

#include "arguments.hpp"

#include <map>
#include <memory>
#include <string>

// A buffer of exactly the file's size, so that a read or write past it is seen. One file is one buffer.
struct Buffer {
    std::string path;
    size_t size;
    std::unique_ptr<char, void (*)(void*)> bytes;
    bool written = false;

    explicit Buffer(const std::string& path) : path(path), size(0), bytes(nullptr, free) {
        FILE* file = fopen(path.c_str(), "rb");
        if (!file || fseek(file, 0, SEEK_END) != 0) exit(2);
        size = ftell(file);
        rewind(file);
        bytes.reset((char*)malloc(size));
        if (fread(bytes.get(), 1, size, file) != size) exit(2);
        fclose(file);
    }

    void write() const {
        FILE* file = fopen(path.c_str(), "wb");
        if (!file || fwrite(bytes.get(), 1, size, file) != size || fclose(file) != 0) exit(2);
    }
};

int main(int argc, char** argv) {
    if (argc < 4) return 2;
    std::string directory = argv[2];
    std::map<std::string, Buffer> buffers;
    auto argument = [&]<typename T>(size_t i, T*) -> T {
        if (4 + (int)i >= argc) exit(2);
        const char* text = argv[4 + i];
        if constexpr (std::is_pointer_v<T>) {
            Buffer& buffer = buffers.try_emplace(text, directory + "/" + text).first->second;
            buffer.written |= !std::is_const_v<std::remove_pointer_t<T>>;
            return (T)buffer.bytes.get();
        } else if constexpr (std::is_floating_point_v<T>) {
            return (T)strtod(text, nullptr);
        } else {
            return (T)strtoull(text, nullptr, 10);
        }
    };
    bool found = find_kernel(argv[1], [&](auto* kernel) { bind_kernel(kernel, strtoul(argv[3], nullptr, 10), argument)(); });
    if (!found) return 2;
    for (const auto& [name, buffer] : buffers) {
        if (buffer.written) buffer.write();
    }
    return 0;
}
