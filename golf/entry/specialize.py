def specialize(modules, root, config):
    return list(modules)
