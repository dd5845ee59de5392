// Drives the compiled plugins' library as TensorRT does, as far as that goes without a GPU: creators, formats, packing, plans.
// usage: adapter_check LIBRARY; prints what is wrong, and ends with the number of it.
#include <NvInfer.h>
#include <dlfcn.h>

#include <cstdio>
#include <string>
#include <vector>

using namespace nvinfer1;

static int wrong = 0;

static void require(bool good, char const* what) {
    if (good) return;
    std::printf("%s\n", what);
    ++wrong;
}

static DynamicPluginTensorDesc tensor(DataType type, TensorFormat format, int c, int h, int w) {
    DynamicPluginTensorDesc d{};
    d.desc.type = type;
    d.desc.format = format;
    d.desc.dims = Dims4(1, c, h, w);
    d.min = d.opt = d.max = d.desc.dims;
    return d;
}

static std::string serialised(IPluginV3* plugin) {
    auto* runtime = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    auto const* fields = runtime->getFieldsToSerialize();
    if (fields == nullptr || fields->nbFields != 1) return {};
    return std::string(static_cast<char const*>(fields->fields[0].data), size_t(fields->fields[0].length));
}

/// A plugin made from what another one serialised.
static IPluginV3* from_plan(IPluginCreatorV3One* creator, std::string const& bytes) {
    PluginField const kept("operator", bytes.data(), PluginFieldType::kCHAR, int32_t(bytes.size()));
    PluginFieldCollection const fields{1, &kept};
    return creator->createPlugin("p", &fields, TensorRTPhase::kRUNTIME);
}

static void zoomed(IPluginCreatorV3One* creator) {
    std::vector<float> const weight(6 * 4 * 9, 0.5F), bias(6, 0.25F);
    int32_t const one = 1, three = 3;
    std::vector<PluginField> fields{{"weight", weight.data(), PluginFieldType::kFLOAT32, int32_t(weight.size())},
                                    {"bias", bias.data(), PluginFieldType::kFLOAT32, 6},
                                    {"stride", &one, PluginFieldType::kINT32, 1},
                                    {"coordinate_transformation_mode", "half_pixel", PluginFieldType::kCHAR, 10}};
    PluginFieldCollection const all{int32_t(fields.size()), fields.data()};
    IPluginV3* plugin = creator->createPlugin("z", &all, TensorRTPhase::kBUILD);
    require(plugin != nullptr, "no ZoomedConv is made from a node's fields");
    if (plugin == nullptr) return;
    auto* build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    DataType types[1];
    DataType const half = DataType::kHALF;
    require(build->getNbOutputs() == 1 && build->getOutputDataTypes(types, 1, &half, 1) == 0 && types[0] == half, "output type");
    for (bool last : {false, true}) {
        auto const format = last ? TensorFormat::kHWC8 : TensorFormat::kLINEAR;
        DynamicPluginTensorDesc const io[2] = {tensor(half, format, 4, 9, 12), tensor(half, format, 6, 9, 12)};
        require(build->supportsFormatCombination(0, io, 1, 1) && build->supportsFormatCombination(1, io, 1, 1), "formats");
        require(build->configurePlugin(io, 1, io + 1, 1) == 0, "configuring");
        require(build->getWorkspaceSize(io, 1, io + 1, 1) < (1 << 20), "workspace");
    }
    DynamicPluginTensorDesc const mixed[2] = {tensor(half, TensorFormat::kLINEAR, 4, 9, 12),
                                              tensor(DataType::kFLOAT, TensorFormat::kLINEAR, 6, 9, 12)};
    require(!build->supportsFormatCombination(1, mixed, 1, 1), "half in and float out is taken");
    std::string const bytes = serialised(plugin);
    IPluginV3* copy = from_plan(creator, bytes);
    require(copy != nullptr && !bytes.empty() && serialised(copy) == bytes, "a ZoomedConv is not what it was behind a plan");
    require(from_plan(creator, bytes.substr(1)) == nullptr, "a plan that is cut short is read");
    IPluginV3* clone = plugin->clone();
    require(clone != nullptr && serialised(clone) == bytes, "a clone differs");
    fields[2].data = &three;
    require(creator->createPlugin("z", &all, TensorRTPhase::kBUILD) == nullptr, "stride 3 is taken");
    delete clone;
    delete copy;
    delete plugin;
}

static void enlarge(IPluginCreatorV3One* creator) {
    int32_t const hw[2] = {64, 80};
    PluginField fields[2] = {{"hw", hw, PluginFieldType::kINT32, 2},
                             {"coordinate_transformation_mode", "align_corners", PluginFieldType::kCHAR, 13}};
    PluginFieldCollection const all{2, fields};
    IPluginV3* plugin = creator->createPlugin("e", &all, TensorRTPhase::kBUILD);
    require(plugin != nullptr, "no EnlargeArgmax is made from a node's fields");
    if (plugin == nullptr) return;
    auto* build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    for (auto type : {DataType::kFLOAT, DataType::kHALF}) {
        DynamicPluginTensorDesc const io[2] = {tensor(type, TensorFormat::kLINEAR, 19, 8, 10),
                                               tensor(DataType::kHALF, TensorFormat::kLINEAR, 1, 64, 80)};
        require(build->supportsFormatCombination(0, io, 1, 1) && build->supportsFormatCombination(1, io, 1, 1), "formats");
    }
    std::string const bytes = serialised(plugin);
    IPluginV3* copy = from_plan(creator, bytes);
    require(copy != nullptr && serialised(copy) == bytes, "an EnlargeArgmax is not what it was behind a plan");
    fields[1].data = "asymmetric";
    require(creator->createPlugin("e", &all, TensorRTPhase::kBUILD) == nullptr, "other coordinates are taken");
    delete copy;
    delete plugin;
}

int main(int, char** arguments) {
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (library == nullptr) {
        std::printf("%s\n", dlerror());
        return 1;
    }
    using Creators = IPluginCreatorInterface* const* (*)(int32_t&);
    auto const creators = reinterpret_cast<Creators>(dlsym(library, "getCreators"));
    require(dlsym(library, "setLoggerFinder") != nullptr, "no setLoggerFinder");
    int32_t count = 0;
    auto const list = creators(count);
    require(count == 2, "not two creators");
    for (int32_t i = 0; i < count; ++i) {
        auto* creator = static_cast<IPluginCreatorV3One*>(list[i]);
        std::string const name = creator->getPluginName();
        require(std::string(creator->getPluginVersion()) == "1" && std::string(creator->getPluginNamespace()).empty(), "version");
        name == "ZoomedConv" ? zoomed(creator) : enlarge(creator);
    }
    return wrong;
}
