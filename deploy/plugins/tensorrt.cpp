// ZoomedConv and EnlargeArgmax for TensorRT 10.3 and later (IPluginV3): shapes, formats, fields; everything else is elsewhere.
//
// An engine's plan keeps the packed weights. They go to the device when a context learns its shapes; `enqueue` computes the
// launch plan, which is a few dozen integers, and launches: it allocates nothing and waits for nothing.
#include <NvInfer.h>
#include <NvInferRuntime.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"

using namespace nvinfer1;

namespace edgesmith {
namespace {

constexpr int32_t DONE = 0, FAILED = -1;
constexpr char const* NAMESPACE = "";  // the ONNX parser looks here for operators that it does not know

bool channels_last_format(DataType type, TensorFormat format) {
    return format == (type == DataType::kHALF ? TensorFormat::kHWC8 : TensorFormat::kHWC);
}

bool readable(PluginTensorDesc const& d) {
    bool const type = d.type == DataType::kFLOAT || d.type == DataType::kHALF;
    return type && (d.format == TensorFormat::kLINEAR || channels_last_format(d.type, d.format));
}

/// How a tensor (N, C, H, W) of this description lies in memory.
Strides strides_of(Dims const& dims, DataType type, TensorFormat format) {
    int const c = int(dims.d[1]), h = int(dims.d[2]), w = int(dims.d[3]);
    if (format == TensorFormat::kLINEAR) return planar(c, h, w);
    bool const half = type == DataType::kHALF;
    return channels_last(half ? rounded_up(c, 8) : c, h, w, half ? 2 : 4);
}

/// What every plugin here is made of, over and over the same: only `Self` differs.
template <class Self>
class Plugin : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuild, public IPluginV3OneRuntime {
public:
    IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
        switch (type) {
            case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
            case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
            case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }
    IPluginV3* clone() noexcept override { return copy(); }
    IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return copy(); }

    AsciiChar const* getPluginName() const noexcept override { return Self::NAME; }
    AsciiChar const* getPluginVersion() const noexcept override { return "1"; }
    AsciiChar const* getPluginNamespace() const noexcept override { return NAMESPACE; }
    int32_t getNbOutputs() const noexcept override { return 1; }

    PluginFieldCollection const* getFieldsToSerialize() noexcept override {
        try {
            kept_ = static_cast<Self const*>(this)->serialise();
        } catch (std::exception const&) {
            return nullptr;
        }
        field_ = PluginField("operator", kept_.data(), PluginFieldType::kCHAR, int32_t(kept_.size()));
        fields_ = {1, &field_};
        return &fields_;
    }

protected:
    Plugin() = default;
    Plugin(Plugin const&) : Plugin() {}  // a copy serialises for itself

private:
    IPluginV3* copy() const noexcept {
        try {
            return new Self(static_cast<Self const&>(*this));
        } catch (std::exception const&) {
            return nullptr;
        }
    }

    std::vector<uint8_t> kept_;
    PluginField field_{};
    PluginFieldCollection fields_{};
};

/// Device memory with a copy of `bytes`; empty where it failed.
class DeviceBytes {
public:
    explicit DeviceBytes(std::vector<uint8_t> const& bytes) {
        if (cudaMalloc(&data_, bytes.size()) != cudaSuccess) data_ = nullptr;
        if (data_ != nullptr && cudaMemcpy(data_, bytes.data(), bytes.size(), cudaMemcpyHostToDevice) != cudaSuccess) {
            cudaFree(data_);
            data_ = nullptr;
        }
    }
    ~DeviceBytes() { cudaFree(data_); }
    DeviceBytes(DeviceBytes const&) = delete;
    DeviceBytes& operator=(DeviceBytes const&) = delete;
    void const* get() const { return data_; }

private:
    void* data_ = nullptr;
};

class ZoomedConvPlugin final : public Plugin<ZoomedConvPlugin> {
public:
    static constexpr char const* NAME = "ZoomedConv";

    /// From a graph: weights and biases of each layer in fp32. They are packed when the precision is known.
    ZoomedConvPlugin(Zoomed z, std::vector<std::vector<float>> weights, std::vector<std::vector<float>> biases)
        : z_(z), weights_(std::move(weights)), biases_(std::move(biases)) {}
    /// From an engine's plan.
    explicit ZoomedConvPlugin(Deserialised d) : z_(d.zoomed), block_(std::move(d.block)) {}
    ZoomedConvPlugin(ZoomedConvPlugin const& other)
        : Plugin(other), z_(other.z_), weights_(other.weights_), biases_(other.biases_), block_(other.block_) {}

    std::vector<uint8_t> serialise() const { return serialised(z_, block_); }

    bool supportsFormatCombination(int32_t pos, DynamicPluginTensorDesc const* t, int32_t, int32_t) noexcept override {
        return pos == 0 ? readable(t[0].desc) : t[1].desc.type == t[0].desc.type && t[1].desc.format == t[0].desc.format;
    }

    int32_t getOutputDataTypes(DataType* out, int32_t, DataType const* in, int32_t) const noexcept override {
        out[0] = in[0];
        return DONE;
    }

    int32_t getOutputShapes(DimsExprs const* in, int32_t, DimsExprs const*, int32_t, DimsExprs* out, int32_t,
                            IExprBuilder& expressions) noexcept override {
        if (in[0].nbDims != 4) return FAILED;
        out[0] = in[0];
        out[0].d[1] = expressions.constant(z_.outputs);
        for (int i = 2; i < 4 && z_.stride == 2; ++i) {
            auto const* half = expressions.operation(DimensionOperation::kFLOOR_DIV, *in[0].d[i], *expressions.constant(2));
            out[0].d[i] = expressions.operation(DimensionOperation::kMAX, *half, *expressions.constant(1));
        }
        return DONE;
    }

    int32_t configurePlugin(DynamicPluginTensorDesc const* in, int32_t, DynamicPluginTensorDesc const*, int32_t) noexcept override {
        return pack(in[0].desc.type);
    }

    size_t getWorkspaceSize(DynamicPluginTensorDesc const* in, int32_t, DynamicPluginTensorDesc const* out,
                            int32_t) const noexcept override {
        return planned(in[0].max, in[0].desc, out[0].max, out[0].desc).workspace_bytes;
    }

    int32_t onShapeChange(PluginTensorDesc const* in, int32_t, PluginTensorDesc const*, int32_t) noexcept override {
        if (pack(in[0].type) != DONE) return FAILED;
        if (device_ == nullptr) {
            try {
                device_ = std::make_unique<DeviceBytes>(block_);
            } catch (std::exception const&) {
                return FAILED;
            }
            processors_ = processors();
        }
        return device_->get() == nullptr ? FAILED : DONE;
    }

    int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const* out, void const* const* inputs, void* const* outputs,
                    void* workspace, cudaStream_t stream) noexcept override {
        if (device_ == nullptr) return FAILED;
        Plan const made = planned(in[0].dims, in[0], out[0].dims, out[0]);
        return launch(made, z_, inputs[0], device_->get(), workspace, outputs[0], stream) == cudaSuccess ? DONE : FAILED;
    }

private:
    Plan planned(Dims const& in, PluginTensorDesc const& in_desc, Dims const& out, PluginTensorDesc const& out_desc) const {
        Zoomed z = z_;
        z.half = in_desc.type == DataType::kHALF;
        return plan(z, int(in.d[0]), int(in.d[2]), int(in.d[3]), strides_of(in, in_desc.type, in_desc.format),
                    strides_of(out, out_desc.type, out_desc.format), processors_);
    }

    /// Weights in the precision of `type`, if they are not already.
    int32_t pack(DataType type) noexcept {
        int32_t const half = type == DataType::kHALF;
        if (!block_.empty() && z_.half == half) return DONE;
        if (weights_.empty()) return FAILED;  // a plan holds one precision
        z_.half = half;
        float const *weights[2], *biases[2];
        for (size_t i = 0; i < weights_.size(); ++i) {
            weights[i] = weights_[i].data();
            biases[i] = biases_[i].data();
        }
        try {
            block_ = packed(z_, weights, biases);
        } catch (std::exception const&) {
            return FAILED;
        }
        device_.reset();
        return DONE;
    }

    Zoomed z_;
    std::vector<std::vector<float>> weights_, biases_;
    std::vector<uint8_t> block_;
    std::unique_ptr<DeviceBytes> device_;  // of this context alone
    int processors_ = 16;
};

class EnlargeArgmaxPlugin final : public Plugin<EnlargeArgmaxPlugin> {
public:
    static constexpr char const* NAME = "EnlargeArgmax";

    /// What a plan keeps.
    struct Sizes {
        uint32_t version;
        int32_t h, w, aligned;
    };

    explicit EnlargeArgmaxPlugin(Sizes sizes) : sizes_(sizes) {}

    std::vector<uint8_t> serialise() const {
        auto const* const first = reinterpret_cast<uint8_t const*>(&sizes_);
        return std::vector<uint8_t>(first, first + sizeof sizes_);
    }

    /// Labels leave as fp16 numbers: plugins cannot return bytes, and only floating point may be cast to bytes behind them.
    bool supportsFormatCombination(int32_t pos, DynamicPluginTensorDesc const* t, int32_t, int32_t) noexcept override {
        return pos == 0 ? readable(t[0].desc)
                        : t[1].desc.type == DataType::kHALF && t[1].desc.format == TensorFormat::kLINEAR;
    }

    int32_t getOutputDataTypes(DataType* out, int32_t, DataType const*, int32_t) const noexcept override {
        out[0] = DataType::kHALF;
        return DONE;
    }

    int32_t getOutputShapes(DimsExprs const* in, int32_t, DimsExprs const*, int32_t, DimsExprs* out, int32_t,
                            IExprBuilder& expressions) noexcept override {
        if (in[0].nbDims != 4) return FAILED;
        out[0].nbDims = 2;
        out[0].d[0] = expressions.constant(sizes_.h);
        out[0].d[1] = expressions.constant(sizes_.w);
        return DONE;
    }

    int32_t configurePlugin(DynamicPluginTensorDesc const*, int32_t, DynamicPluginTensorDesc const*, int32_t) noexcept override {
        return DONE;
    }

    int32_t onShapeChange(PluginTensorDesc const* in, int32_t, PluginTensorDesc const*, int32_t) noexcept override {
        return in[0].dims.d[0] == 1 && in[0].dims.d[1] <= MOST_CLASSES ? DONE : FAILED;
    }

    int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const*, void const* const* inputs, void* const* outputs, void*,
                    cudaStream_t stream) noexcept override {
        Dims const& d = in[0].dims;
        Strides const s = strides_of(d, in[0].type, in[0].format);
        bool const aligned = sizes_.aligned != 0;
        Axis const y = axis(int(d.d[2]), sizes_.h, aligned), x = axis(int(d.d[3]), sizes_.w, aligned);
        Enlargement const work{int(d.d[1]), int(d.d[0]), y, x, s.channel, s.pixel, s.row, s.image};
        cudaError_t const error = launch(work, in[0].type == DataType::kHALF, true, inputs[0], outputs[0], stream);
        return error == cudaSuccess ? DONE : FAILED;
    }

private:
    Sizes sizes_;
};

// Fields of a graph's node, as the parser hands them on. ----------------------------------------------------------------------

PluginField const* find(PluginFieldCollection const& fields, std::string const& name) {
    for (int32_t i = 0; i < fields.nbFields; ++i)
        if (fields.fields[i].name != nullptr && name == fields.fields[i].name) return &fields.fields[i];
    return nullptr;
}

/// The integers of a field; none where it is missing or no integers.
std::vector<int64_t> integers(PluginField const* f) {
    std::vector<int64_t> found;
    for (int32_t i = 0; f != nullptr && f->data != nullptr && i < f->length; ++i) {
        if (f->type == PluginFieldType::kINT32) found.push_back(static_cast<int32_t const*>(f->data)[i]);
        if (f->type == PluginFieldType::kINT64) found.push_back(static_cast<int64_t const*>(f->data)[i]);
    }
    return found;
}

/// The numbers of an fp32 or fp16 tensor.
std::vector<float> numbers(PluginField const* f) {
    std::vector<float> found;
    for (int32_t i = 0; f != nullptr && f->data != nullptr && i < f->length; ++i) {
        if (f->type == PluginFieldType::kFLOAT32) found.push_back(static_cast<float const*>(f->data)[i]);
        if (f->type == PluginFieldType::kFLOAT16) found.push_back(to_float(static_cast<Half const*>(f->data)[i]));
    }
    return found;
}

std::string text(PluginField const* f) {
    bool const good = f != nullptr && f->data != nullptr && f->type == PluginFieldType::kCHAR && f->length > 0;
    // The length may count a final zero, or not.
    return good ? std::string(std::string(static_cast<char const*>(f->data), size_t(f->length)).c_str()) : std::string();
}

/// 1 for aligned corners, 0 for half-pixel, -1 for what no plugin here computes.
int32_t alignment(PluginFieldCollection const& fields) {
    std::string const mode = text(find(fields, "coordinate_transformation_mode"));
    return mode == "align_corners" ? 1 : mode == "half_pixel" ? 0 : -1;
}

IPluginV3* zoomed_from_node(PluginFieldCollection const& fields) {
    std::vector<std::vector<float>> weights, biases;
    for (char const* end : {"", "_2"}) {
        std::vector<float> w = numbers(find(fields, std::string("weight") + end));
        if (w.empty()) break;
        weights.push_back(std::move(w));
        biases.push_back(numbers(find(fields, std::string("bias") + end)));
    }
    std::vector<int64_t> const stride = integers(find(fields, "stride"));
    if (weights.empty() || biases[0].empty() || stride.size() != 1 || alignment(fields) < 0) return nullptr;
    size_t const outputs = biases[0].size(), channels = weights[0].size() / (9 * outputs);
    Zoomed const z{int32_t(channels), int32_t(outputs), int32_t(weights.size()), int32_t(stride[0]), alignment(fields), 0};
    if (!z.valid()) return nullptr;
    for (size_t i = 0; i < weights.size(); ++i) {
        size_t const count = outputs * size_t(z.inputs_of(int(i))) * 9;
        if (weights[i].size() != count || biases[i].size() != outputs) return nullptr;
    }
    return new ZoomedConvPlugin(z, std::move(weights), std::move(biases));
}

IPluginV3* zoomed_from_plan(PluginField const& f) {
    auto d = deserialised(f.data, size_t(f.length));
    return d ? new ZoomedConvPlugin(std::move(*d)) : nullptr;
}

IPluginV3* enlarge_from_node(PluginFieldCollection const& fields) {
    std::vector<int64_t> const hw = integers(find(fields, "hw"));
    constexpr int64_t MOST = 1 << 14;
    if (hw.size() != 2 || hw[0] < 1 || hw[0] > MOST || hw[1] < 1 || hw[1] > MOST || alignment(fields) < 0) return nullptr;
    return new EnlargeArgmaxPlugin({ENLARGE_ARGMAX_VERSION, int32_t(hw[0]), int32_t(hw[1]), alignment(fields)});
}

IPluginV3* enlarge_from_plan(PluginField const& f) {
    EnlargeArgmaxPlugin::Sizes sizes;
    if (f.data == nullptr || size_t(f.length) != sizeof sizes) return nullptr;
    std::memcpy(&sizes, f.data, sizeof sizes);
    return sizes.version == ENLARGE_ARGMAX_VERSION ? new EnlargeArgmaxPlugin(sizes) : nullptr;
}

class Creator : public IPluginCreatorV3One {
public:
    using FromNode = IPluginV3* (*)(PluginFieldCollection const&);
    using FromPlan = IPluginV3* (*)(PluginField const&);

    Creator(char const* name, std::vector<PluginField> fields, FromNode from_node, FromPlan from_plan)
        : name_(name), fields_(std::move(fields)), from_node_(from_node), from_plan_(from_plan) {
        collection_ = {int32_t(fields_.size()), fields_.data()};
    }

    IPluginV3* createPlugin(AsciiChar const*, PluginFieldCollection const* given, TensorRTPhase phase) noexcept override {
        if (given == nullptr) return nullptr;
        try {
            if (phase == TensorRTPhase::kBUILD) return from_node_(*given);
            PluginField const* const kept = find(*given, "operator");
            return kept == nullptr ? nullptr : from_plan_(*kept);
        } catch (std::exception const&) {
            return nullptr;
        }
    }

    PluginFieldCollection const* getFieldNames() noexcept override { return &collection_; }
    AsciiChar const* getPluginName() const noexcept override { return name_; }
    AsciiChar const* getPluginVersion() const noexcept override { return "1"; }
    AsciiChar const* getPluginNamespace() const noexcept override { return NAMESPACE; }

private:
    char const* name_;
    std::vector<PluginField> fields_;
    PluginFieldCollection collection_{};
    FromNode from_node_;
    FromPlan from_plan_;
};

PluginField named(char const* name, PluginFieldType type) { return PluginField(name, nullptr, type, 1); }

struct ZoomedConvCreator final : Creator {
    ZoomedConvCreator()
        : Creator(ZoomedConvPlugin::NAME,
                  {named("weight", PluginFieldType::kFLOAT32), named("bias", PluginFieldType::kFLOAT32),
                   named("weight_2", PluginFieldType::kFLOAT32), named("bias_2", PluginFieldType::kFLOAT32),
                   named("stride", PluginFieldType::kINT32), named("coordinate_transformation_mode", PluginFieldType::kCHAR)},
                  zoomed_from_node, zoomed_from_plan) {}
};

struct EnlargeArgmaxCreator final : Creator {
    EnlargeArgmaxCreator()
        : Creator(EnlargeArgmaxPlugin::NAME,
                  {named("hw", PluginFieldType::kINT32), named("coordinate_transformation_mode", PluginFieldType::kCHAR)},
                  enlarge_from_node, enlarge_from_plan) {}
};

}  // namespace
}  // namespace edgesmith

// What TensorRT looks for in a library that `IPluginRegistry::loadLibrary` is given. Loading it otherwise registers nothing, and
// needs nothing of TensorRT.
extern "C" {

IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static edgesmith::ZoomedConvCreator zoomed;
    static edgesmith::EnlargeArgmaxCreator enlarge;
    static IPluginCreatorInterface* const creators[] = {&zoomed, &enlarge};
    count = 2;
    return creators;
}

void setLoggerFinder(ILoggerFinder*) {}

char const* edgesmith_source_digest() { return EDGESMITH_SOURCE_DIGEST; }

}  // extern "C"
