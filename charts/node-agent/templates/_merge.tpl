{{/* `cni.X` is `X`, and wins: called once by each template, before it reads a value. */}}
{{- define "node-agent.merge" -}}
{{- if .Values.cni }}
{{- $_ := mustMergeOverwrite .Values (omit .Values.cni "enabled") }}
{{- end }}
{{- end }}

{{/* Where a platform keeps things, as JSON. */}}
{{- define "node-agent.paths" -}}
{{- $platforms := dict
  "gke" (dict "bin" "/home/kubernetes/bin")
  "k3d" (dict "bin" "/bin" "conf" "/var/lib/rancher/k3s/agent/etc/cni/net.d")
  "k3s" (dict "bin" "/var/lib/rancher/k3s/data/cni" "conf" "/var/lib/rancher/k3s/agent/etc/cni/net.d")
  "microk8s" (dict "bin" "/var/snap/microk8s/current/opt/cni/bin" "conf" "/var/snap/microk8s/current/args/cni-network")
  "minikube" (dict "netns" "/var/run/docker/netns")
  "openshift" (dict "bin" "/var/lib/cni/bin" "conf" "/etc/cni/multus/net.d")
-}}
{{- $platform := .Values.platform | default .Values.global.platform | default "" }}
{{- if and $platform (not (hasKey $platforms $platform)) }}
{{- fail (printf "unknown platform %q: one of %s" $platform (keys $platforms | sortAlpha | join ", ")) }}
{{- end }}
{{- $own := get $platforms $platform | default dict }}
{{- dict
  "bin" (.Values.cniBinDir | default $own.bin | default "/opt/cni/bin")
  "conf" (.Values.cniConfDir | default $own.conf | default "/etc/cni/net.d")
  "netns" (.Values.cniNetnsDir | default $own.netns | default "/var/run/netns")
  | toJson }}
{{- end }}
