def copy_share(f, **k): pass
def use(a,b): return b
