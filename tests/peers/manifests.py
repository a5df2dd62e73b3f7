"""Checks manifests against the schemas of Kubernetes' own API, and what no schema says: manifests.py FILE"""

import sys

import kubernetes_validate
import yaml

documents = [document for document in yaml.safe_load_all(open(sys.argv[1])) if document]
for document in documents:
    # Unknown keys are errors: a misspelt one would be dropped without a word.
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    print(document["kind"], document["metadata"]["name"], "is valid")

by_kind = {}
for document in documents:
    by_kind.setdefault(document["kind"], []).append(document)
names = {kind: {document["metadata"]["name"] for document in some} for kind, some in by_kind.items()}
for workload in by_kind["DaemonSet"]:
    template = workload["spec"]["template"]
    labels, pod = template["metadata"]["labels"].items(), template["spec"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= labels, "the selector misses its own pods"
    seeds = [service for service in by_kind["Service"] if service["spec"].get("clusterIP") == "None"]
    assert seeds and all(service["spec"]["selector"].items() <= labels for service in seeds), "nobody is a seed"
    assert pod["serviceAccountName"] in names["ServiceAccount"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for volume in volumes.values():
        assert volume.get("configMap", {}).get("name", "meridian") in names["ConfigMap"]
    for container in pod["containers"]:
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert all(mount["name"] in volumes for mount in container["volumeMounts"])
        flags = dict(word[2:].split("=", 1) for word in container["args"] if word.startswith("--"))
        for path in (flags["key-file"], flags["apply"]):
            assert path.rsplit("/", 1)[0] in mounted, f"{path} is not mounted"
        assert pod["terminationGracePeriodSeconds"] > int(flags["drain"].removesuffix("s")), "a drain is cut short"
        assert all(container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe"))
roles = {role["metadata"]["name"]: role["rules"] for role in by_kind["ClusterRole"]}
for binding in by_kind["ClusterRoleBinding"]:
    assert binding["roleRef"]["name"] in roles
    assert all(subject["name"] in names["ServiceAccount"] for subject in binding["subjects"])
assert [
    (rule["apiGroups"], rule["resources"], rule["verbs"]) for rules in roles.values() for rule in rules
] == [(["discovery.k8s.io"], ["endpointslices"], ["list", "watch"])], "more is allowed than is asked for"
