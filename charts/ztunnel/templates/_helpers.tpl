{{/* Labels of every object. */}}
{{- define "ztunnel.labels" -}}
app.kubernetes.io/name: ztunnel
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* HUB/NAME:TAG, or the image as it is if it names a whole one. */}}
{{- define "ztunnel.image" -}}
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

{{- define "ztunnel.pull" -}}
{{- $global := .Values.global | default dict }}
{{- with .Values.imagePullPolicy | default $global.imagePullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{- define "ztunnel.pullSecrets" -}}
{{- $global := .Values.global | default dict }}
{{- with .Values.imagePullSecrets | default $global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where the control plane is. */}}
{{- define "ztunnel.istioNamespace" -}}
{{- $global := .Values.global | default dict }}
{{- .Values.istioNamespace | default $global.istioNamespace | default "istio-system" }}
{{- end }}

{{/* The control plane's Service, which has the revision in its name. */}}
{{- define "ztunnel.controlPlane" -}}
{{- $revision := .Values.revision | default "" }}
{{- $suffix := ternary "" (printf "-%s" $revision) (or (empty $revision) (eq $revision "default")) }}
{{- printf "istiod%s.%s.svc:15012" $suffix (include "ztunnel.istioNamespace" .) }}
{{- end }}
