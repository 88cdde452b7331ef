"""One experiment a file, each with a function ``run(report)``; ``mf-manifold benchmark NAME`` runs one."""
