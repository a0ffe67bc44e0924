{{/* Labels of every object. */}}
{{- define "istiod-lite.labels" -}}
app.kubernetes.io/name: istiod
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
istio.io/rev: {{ .Values.revision | default "default" | quote }}
operator.istio.io/component: Pilot
install.operator.istio.io/owning-resource: unknown
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* HUB/NAME:TAG, or the image as it is if it names a whole one. */}}
{{- define "istiod-lite.image" -}}
{{- $global := .Values.global | default dict }}
{{- $hub := .Values.hub | default $global.hub | default "ambit" }}
{{- $tag := .Values.tag | default $global.tag | default "dev" }}
{{- $variant := .Values.variant | default $global.variant }}
{{- $image := .Values.image }}
{{- if or (contains "/" $image) (contains ":" $image) }}
{{- $image }}
{{- else }}
{{- printf "%s/%s:%s%s" $hub $image (toString $tag) (ternary (printf "-%s" $variant) "" (not (empty $variant))) }}
{{- end }}
{{- end }}

{{- define "istiod-lite.pull" -}}
{{- $global := .Values.global | default dict }}
{{- with .Values.imagePullPolicy | default $global.imagePullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{- define "istiod-lite.pullSecrets" -}}
{{- $global := .Values.global | default dict }}
{{- with .Values.imagePullSecrets | default $global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where the control plane is. */}}
{{- define "istiod-lite.istioNamespace" -}}
{{- $global := .Values.global | default dict }}
{{- .Values.istioNamespace | default $global.istioNamespace | default "istio-system" }}
{{- end }}

{{/* The control plane's Service, which has the revision in its name. */}}
{{- define "istiod-lite.controlPlane" -}}
{{- $revision := .Values.revision | default "" }}
{{- $suffix := ternary "" (printf "-%s" $revision) (or (empty $revision) (eq $revision "default")) }}
{{- printf "istiod%s.%s.svc:15012" $suffix (include "istiod-lite.istioNamespace" .) }}
{{- end }}

{{/* `-REVISION` in the names of what a revision has of its own. */}}
{{- define "istiod-lite.suffix" -}}
{{- $revision := .Values.revision | default "" }}
{{- if and $revision (ne $revision "default") }}-{{ $revision }}{{ end }}
{{- end }}

{{- define "istiod-lite.name" -}}
istiod{{ include "istiod-lite.suffix" . }}
{{- end }}

{{/* Which account, and the names of cluster-wide objects: one for each control plane. */}}
{{- define "istiod-lite.scoped" -}}
{{ include "istiod-lite.suffix" . }}-{{ .Release.Namespace }}
{{- end }}

{{/* The pods' own labels; they may never change. */}}
{{- define "istiod-lite.selector" -}}
app: istiod
istio.io/rev: {{ .Values.revision | default "default" | quote }}
{{- end }}

{{- define "istiod-lite.waypointImage" -}}
{{- $hub := .Values.hub | default .Values.global.hub }}
{{- $tag := .Values.tag | default .Values.global.tag }}
{{- $image := .Values.global.waypoint.image }}
{{- if or (contains "/" $image) (contains ":" $image) }}
{{- $image }}
{{- else }}
{{- printf "%s/%s:%s" $hub $image (toString $tag) }}
{{- end }}
{{- end }}
